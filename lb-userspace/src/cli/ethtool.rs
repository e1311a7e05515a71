//! Asks network drivers how they are set, by the ethtool ioctl (linux/ethtool.h). Changes nothing.
//!
//! Effectful: calls ioctl(2).

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// What a driver says of a device; `None` where it does not know the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Queues that packets come in by.
    pub queues: Option<u32>,
    /// Frames that the receive ring of each queue holds.
    pub receive_ring: Option<u32>,
    /// Packets of a flow are merged by the stack as they come in.
    pub gro: Option<bool>,
    /// Packets of a flow are merged by the device.
    pub lro: Option<bool>,
    /// VLAN tags are taken out of frames by the device.
    pub vlan_stripping: Option<bool>,
}

const GET_RINGS: u32 = 0x10;
const GET_FLAGS: u32 = 0x25;
const GET_GRO: u32 = 0x2b;
const GET_CHANNELS: u32 = 0x3c;
const FLAG_VLAN_STRIPPING: u32 = 1 << 8;
const FLAG_LRO: u32 = 1 << 15;
/// Index of `rx_pending` in `struct ethtool_ringparam`.
const RECEIVE_RING: usize = 5;
/// Indices of `rx_count` and `combined_count` in `struct ethtool_channels`.
const CHANNELS: [usize; 2] = [5, 8];

/// What the driver of an interface says.
pub fn read(interface: &str) -> Device {
    let Ok(socket) = UdpSocket::bind(("127.0.0.1", 0)) else { return Device::default() };
    let rings: Option<[u32; 9]> = ask(&socket, interface, GET_RINGS);
    let gro: Option<[u32; 2]> = ask(&socket, interface, GET_GRO);
    let flags: Option<[u32; 2]> = ask(&socket, interface, GET_FLAGS);
    let channels: Option<[u32; 9]> = ask(&socket, interface, GET_CHANNELS);
    Device {
        queues: channels.map(|channels| CHANNELS.map(|index| channels[index]).into_iter().sum()),
        receive_ring: rings.map(|rings| rings[RECEIVE_RING]),
        gro: gro.map(|gro| gro[1] != 0),
        lro: flags.map(|flags| flags[1] & FLAG_LRO != 0),
        vlan_stripping: flags.map(|flags| flags[1] & FLAG_VLAN_STRIPPING != 0),
    }
}

/// The answer to a question whose structure is so many words, the first of which is the question.
fn ask<const WORDS: usize>(socket: &UdpSocket, interface: &str, question: u32) -> Option<[u32; WORDS]> {
    let mut words = [0; WORDS];
    words[0] = question;
    let mut name = [0; libc::IFNAMSIZ];
    // The last byte stays zero.
    if interface.len() >= name.len() {
        return None;
    }
    for (place, byte) in name.iter_mut().zip(interface.bytes()) {
        *place = byte as libc::c_char;
    }
    let data = libc::__c_anonymous_ifr_ifru { ifru_data: words.as_mut_ptr().cast() };
    let mut request = libc::ifreq { ifr_name: name, ifr_ifru: data };
    // SAFETY: the request lives through the call, and the words are as many as the kernel writes for this question.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    (result == 0).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_has_no_settings() {
        assert_eq!(read("no-such-device-at-all"), Device::default());
        assert_eq!(read("nosuchdevice"), Device::default());
    }

    #[test]
    fn loopback_says_whether_it_merges_packets() {
        assert!(read("lo").gro.is_some());
    }
}
