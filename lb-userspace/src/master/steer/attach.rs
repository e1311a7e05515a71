//! XDP programs on interfaces: by a pinned link, so that packets go on while no master runs, and the next one changes the
//! program without a gap.
//!
//! Effectful: attaches programs.

use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpError, XdpLink};
use aya::programs::{ProgramError, Xdp, XdpMode as Hook, loaded_programs};
use thiserror::Error;

use super::next_hop::{Attached, Mode, Network};
use super::sys;
use crate::config::model::steering::XdpMode;
use crate::master::kernel::reason;

/// Largest MTU for which drivers give XDP a frame in one page (4096 less the frame's head and tail, 3506 by virtio and veth).
const MTU_IN_ONE_PAGE: u32 = 3_498;

/// A program that is attached.
#[derive(Debug)]
pub struct Attachment {
    /// The interface.
    pub interface: u32,
    /// Its name when the program was attached.
    pub name: String,
    /// Where the program runs.
    pub mode: Mode,
    /// What went before: a link that an earlier master left was used.
    pub taken_over: bool,
    pin: PathBuf,
}

/// Why a program is not attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// No such interface.
    #[error("interface \"{name}\" does not exist; there are {known}")]
    NoInterface {
        /// As configured.
        name: String,
        /// Those that do.
        known: String,
    },
    /// Somebody else's program is there.
    #[error(
        "interface \"{name}\" has another XDP program ({program}), and takes only one: end what attached it, or detach it \
         with: ip link set dev {name} {off} off"
    )]
    Taken {
        /// The interface.
        name: String,
        /// Number and name of the program.
        program: String,
        /// `xdp` or `xdpgeneric`, as `ip` names it.
        off: &'static str,
    },
    /// The driver cannot.
    #[error(
        "interface \"{name}\" runs no XDP in its driver ({why}): write xdp_mode = \"auto\" or \"generic\" in [kernel], which is slower"
    )]
    NotNative {
        /// The interface.
        name: String,
        /// What the kernel said.
        why: String,
    },
    /// Frames may be longer than a page.
    #[error(
        "interface \"{name}\": MTU {mtu} is too large for XDP in its driver: ip link set dev {name} mtu {max}, or write \
         xdp_mode = \"generic\" in [kernel], which is slower"
    )]
    Mtu {
        /// The interface.
        name: String,
        /// What it has.
        mtu: u32,
        /// What works everywhere.
        max: u32,
    },
    /// Not root.
    #[error(
        "interface \"{0}\": attaching a program is not allowed: run lbctl up as root, with CAP_NET_ADMIN and CAP_BPF"
    )]
    NotAllowed(String),
    /// An old kernel.
    #[error(
        "interface \"{0}\": this kernel attaches XDP by no link (Linux 5.9 does): VIPs could not survive a restart"
    )]
    NoLink(String),
    /// Something else.
    #[error("interface \"{name}\": {why}")]
    Other {
        /// The interface.
        name: String,
        /// What the kernel said.
        why: String,
    },
}

/// Attaches `program`, or makes it the program of the link that an earlier master left at `pin`.
///
/// # Errors
/// Why it cannot be, and what to do.
pub fn attach(
    program: &mut Xdp,
    network: &Network,
    name: &str,
    pin: &Path,
    wanted: XdpMode,
) -> Result<Attachment, AttachError> {
    let Some((interface, there)) = network.interface_named(name) else {
        let known = network.interface_names().collect::<Vec<_>>().join(", ");
        return Err(AttachError::NoInterface { name: name.to_owned(), known });
    };
    let attachment = |mode, taken_over| Attachment {
        interface,
        name: name.to_owned(),
        mode,
        taken_over,
        pin: pin.to_owned(),
    };
    if let Some(mode) = there.xdp.map(|attached| attached.mode).filter(|mode| suits(*mode, wanted))
        && take_over(program, pin)
    {
        return Ok(attachment(mode, true));
    }
    // What is there is of another mode, or of an interface that is gone.
    if let Err(error) = detach_pinned(pin) {
        return Err(AttachError::Other { name: name.to_owned(), why: format!("{}: {error}", pin.display()) });
    }
    let native = match wanted {
        XdpMode::Generic => None,
        XdpMode::Auto | XdpMode::Native => Some(attach_anew(program, interface, Hook::Driver, pin)),
    };
    let error = match native {
        Some(Ok(())) => return Ok(attachment(Mode::Native, false)),
        Some(Err(error)) if wanted == XdpMode::Native || !error.is_for_driver() => error,
        refused => {
            if let Some(Err(error)) = refused {
                let error = error.say(name, there.mtu, there.xdp);
                log::warn!("xdp runs generic, which is slower interface={name} reason=\"{error}\"");
            }
            match attach_anew(program, interface, Hook::Skb, pin) {
                Ok(()) => return Ok(attachment(Mode::Generic, false)),
                Err(error) => error,
            }
        }
    };
    Err(error.say(name, there.mtu, there.xdp))
}

impl Attachment {
    /// Takes the program off the interface. Whoever ends without this leaves it on.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn detach(self) -> io::Result<()> {
        detach_pinned(&self.pin)
    }
}

/// Takes the program of the link that is pinned at `pin` off its interface, and removes the pin. What is not there is no error.
///
/// # Errors
/// What the operating system says.
pub fn detach_pinned(pin: &Path) -> io::Result<()> {
    match sys::open_pin(pin) {
        Ok(link) => {
            // The interface may be gone, and with it what there was to detach.
            let _ = sys::detach(link);
            std::fs::remove_file(pin)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a program may stay where it is.
fn suits(mode: Mode, wanted: XdpMode) -> bool {
    match wanted {
        XdpMode::Auto => true,
        XdpMode::Native => mode != Mode::Generic,
        XdpMode::Generic => mode == Mode::Generic,
    }
}

/// Exchanges the program of a pinned link, in one step of the kernel. False when there is none, or its interface is gone.
fn take_over(program: &mut Xdp, pin: &Path) -> bool {
    let Ok(pinned) = PinnedLink::from_pin(pin) else { return false };
    let Ok(link) = XdpLink::try_from(FdLink::from(pinned)) else { return false };
    let Ok(id) = program.attach_to_link(link) else { return false };
    // The pin alone holds the link, so that removing it detaches.
    program.take_link(id).is_ok()
}

fn attach_anew(program: &mut Xdp, interface: u32, hook: Hook, pin: &Path) -> Result<(), Refused> {
    let id = program.attach_to_if_index(interface, hook)?;
    let link = program.take_link(id)?;
    // The library attaches by netlink where a link is refused; that would end with this process, and cannot be pinned.
    let link = FdLink::try_from(link).map_err(|_| Refused::NoLink)?;
    link.pin(pin).map_err(|error| Refused::Other(reason(error)))?;
    Ok(())
}

/// What the kernel answered.
enum Refused {
    NoLink,
    Code { code: i32, why: String },
    Other(anyhow::Error),
}

impl From<ProgramError> for Refused {
    fn from(error: ProgramError) -> Self {
        let code = match &error {
            ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
            ProgramError::XdpError(XdpError::NetlinkError(error)) => error.raw_os_error(),
            _ => None,
        };
        let why = format!("{:#}", reason(error));
        match code {
            Some(code) => Self::Code { code, why },
            None => Self::Other(anyhow::anyhow!(why)),
        }
    }
}

impl Refused {
    /// Whether another hook may work.
    fn is_for_driver(&self) -> bool {
        let for_all = [libc::EBUSY, libc::EEXIST, libc::EPERM, libc::EACCES, libc::ENODEV, libc::ENOMEM];
        matches!(self, Self::Code { code, .. } if !for_all.contains(code))
    }

    fn say(self, name: &str, mtu: u32, there: Option<Attached>) -> AttachError {
        let name = name.to_owned();
        match self {
            Self::NoLink => AttachError::NoLink(name),
            Self::Code { code: libc::EPERM | libc::EACCES, .. } => AttachError::NotAllowed(name),
            Self::Code { code: libc::EBUSY | libc::EEXIST, why } => match there {
                Some(there) => AttachError::Taken {
                    name,
                    program: program_name(there.program),
                    off: if there.mode == Mode::Generic { "xdpgeneric" } else { "xdp" },
                },
                None => AttachError::Other { name, why },
            },
            Self::Code { code: libc::ERANGE | libc::EINVAL, .. } if mtu > MTU_IN_ONE_PAGE => {
                AttachError::Mtu { name, mtu, max: MTU_IN_ONE_PAGE }
            }
            Self::Code { why, .. } => AttachError::NotNative { name, why },
            Self::Other(error) => AttachError::Other { name, why: format!("{error:#}") },
        }
    }
}

/// `id 12, named "xdp_filter"`.
fn program_name(id: u32) -> String {
    let mut programs = loaded_programs().filter_map(Result::ok);
    match programs.find(|program| program.id() == id) {
        Some(program) => match program.name_as_str() {
            Some(name) if !name.is_empty() => format!("id {id}, named \"{name}\""),
            _ => format!("id {id}"),
        },
        None => format!("id {id}"),
    }
}

#[cfg(test)]
mod tests {
    use aya::Ebpf;

    use super::*;
    use crate::master::steer::lab::{Neighbourhood, in_namespace, ip};
    use crate::master::steer::next_hop::netlink::Kernel;
    use crate::master::steer::pins::Pins;

    static OBJECT: &[u8] =
        aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf/prebuilt/lb-lab.o"));

    /// An interface `ours`, a home for pins, and an object with a program that passes everything.
    struct Desk {
        _other: Neighbourhood,
        pins: Pins,
        run_dir: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            let other = Neighbourhood::new();
            other.join(("ours", "10.1.0.1/24"), ("theirs", "10.1.0.2/24"));
            let run_dir = tempfile::tempdir().unwrap();
            let pins = Pins::of(run_dir.path(), 1);
            pins.make_home(run_dir.path()).unwrap();
            Self { _other: other, pins, run_dir }
        }

        fn attach(&self, object: &mut Ebpf, wanted: XdpMode) -> Result<Attachment, AttachError> {
            let network = Kernel::open().unwrap().network().unwrap();
            let pin = self.pins.home().join("link-1");
            attach(pass(object), &network, "ours", &pin, wanted)
        }

        fn there(&self) -> Option<Attached> {
            Kernel::open().unwrap().network().unwrap().interface_named("ours").unwrap().1.xdp
        }
    }

    impl Drop for Desk {
        fn drop(&mut self) {
            self.pins.remove().unwrap();
            assert!(self.run_dir.path().exists());
        }
    }

    fn object() -> Ebpf {
        let mut object = aya::EbpfLoader::new().btf(None).load(OBJECT).unwrap();
        pass(&mut object).load().unwrap();
        object
    }

    fn pass(object: &mut Ebpf) -> &mut Xdp {
        object.program_mut("lab_pass").unwrap().try_into().unwrap()
    }

    fn id(object: &mut Ebpf) -> u32 {
        pass(object).info().unwrap().id()
    }

    #[test]
    fn program_outlives_its_master_and_the_next_exchanges_it() {
        in_namespace(|| async {
            let desk = Desk::new();
            let mut first = object();
            let attachment = desk.attach(&mut first, XdpMode::Auto).unwrap();
            assert_eq!((attachment.mode, attachment.taken_over), (Mode::Native, false));
            let before = id(&mut first);
            drop((attachment, first));
            assert_eq!(desk.there(), Some(Attached { program: before, mode: Mode::Native }));
            let mut second = object();
            let attachment = desk.attach(&mut second, XdpMode::Auto).unwrap();
            assert!(attachment.taken_over);
            assert_eq!(desk.there().unwrap().program, id(&mut second));
            attachment.detach().unwrap();
            assert_eq!(desk.there(), None);
        });
    }

    #[test]
    fn another_mode_takes_the_program_off_and_puts_it_on_again() {
        in_namespace(|| async {
            let desk = Desk::new();
            let mut object = object();
            desk.attach(&mut object, XdpMode::Generic).unwrap();
            assert_eq!(desk.there().unwrap().mode, Mode::Generic);
            let attachment = desk.attach(&mut object, XdpMode::Native).unwrap();
            assert_eq!((attachment.mode, desk.there().unwrap().mode), (Mode::Native, Mode::Native));
        });
    }

    #[test]
    fn link_of_an_interface_that_is_gone_is_replaced() {
        in_namespace(|| async {
            let desk = Desk::new();
            let mut object = object();
            desk.attach(&mut object, XdpMode::Auto).unwrap();
            ip("link delete ours");
            desk._other.join(("ours", "10.1.0.1/24"), ("theirs", "10.1.0.2/24"));
            let attachment = desk.attach(&mut object, XdpMode::Auto).unwrap();
            assert!(!attachment.taken_over);
            assert!(desk.there().is_some());
        });
    }

    #[test]
    fn errors_say_what_to_do() {
        in_namespace(|| async {
            let desk = Desk::new();
            let mut object = object();
            let network = Kernel::open().unwrap().network().unwrap();
            let pin = desk.pins.home().join("link-1");
            let error = attach(pass(&mut object), &network, "eth9", &pin, XdpMode::Auto).unwrap_err();
            assert_eq!(error.to_string(), "interface \"eth9\" does not exist; there are ours");
            let other = desk.attach(&mut object, XdpMode::Auto).unwrap();
            let (elsewhere, network) =
                (desk.pins.home().join("link-2"), Kernel::open().unwrap().network().unwrap());
            let taken = attach(pass(&mut object), &network, "ours", &elsewhere, XdpMode::Auto).unwrap_err();
            let taken = taken.to_string();
            assert!(taken.contains(", named \"lab_pass\"") && taken.contains("dev ours xdp off"), "{taken}");
            other.detach().unwrap();
            ip("link add name bridge type bridge");
            let network = Kernel::open().unwrap().network().unwrap();
            let error = attach(pass(&mut object), &network, "bridge", &pin, XdpMode::Native).unwrap_err();
            assert!(matches!(error, AttachError::NotNative { .. }), "{error}");
            let attachment = attach(pass(&mut object), &network, "bridge", &pin, XdpMode::Auto).unwrap();
            assert_eq!(attachment.mode, Mode::Generic);
        });
    }

    #[test]
    fn mtu_beyond_a_page_is_named() {
        in_namespace(|| async {
            let desk = Desk::new();
            ip("link set ours mtu 9000");
            desk._other.within(|| ip("link set theirs mtu 9000"));
            let mut object = object();
            let error = desk.attach(&mut object, XdpMode::Native).unwrap_err();
            assert!(matches!(error, AttachError::Mtu { mtu: 9000, .. }), "{error}");
            assert_eq!(desk.attach(&mut object, XdpMode::Auto).unwrap().mode, Mode::Generic);
        });
    }
}
