//! Where the fields that the kernel programs read lie in the running kernel.

use super::btf::{Btf, BtfError};

/// What the exit program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitLayout {
    /// The tracepoint says whether the whole process is dead (6.16 and later).
    Said,
    /// The count of living threads, behind `task_struct.signal`.
    Counted {
        /// Offset in `task_struct`.
        task_signal: u32,
        /// Offset in `signal_struct`.
        signal_live: u32,
    },
}

/// What the short-cut reads of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShortCutLayout {
    /// Bytes charged to the receive queue.
    pub queued: u32,
    /// The sequence number written next.
    pub writes_next: u32,
    /// The sequence number read next.
    pub reads_next: u32,
    /// The protocol on top of TCP.
    pub upper_protocol: u32,
}

/// The offsets, or why they cannot be had, for each program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// For the exit watch.
    pub exit: Result<ExitLayout, BtfError>,
    /// For the listen watch: where a socket's port lies.
    pub listen: Result<u32, BtfError>,
    /// For the short-cut.
    pub short_cut: Result<ShortCutLayout, BtfError>,
}

impl Layout {
    /// Reads `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// The information is damaged as a whole.
    pub fn from_btf(bytes: &[u8]) -> Result<Self, BtfError> {
        let btf = Btf::parse(bytes)?;
        Ok(Self {
            exit: exit(&btf),
            listen: btf.offset_of("sock", &["__sk_common", "skc_num"]),
            short_cut: short_cut(&btf),
        })
    }
}

fn exit(btf: &Btf<'_>) -> Result<ExitLayout, BtfError> {
    if btf.tracepoint_arguments("sched_process_exit")? >= 2 {
        return Ok(ExitLayout::Said);
    }
    Ok(ExitLayout::Counted {
        task_signal: btf.offset_of("task_struct", &["signal"])?,
        signal_live: btf.offset_of("signal_struct", &["live"])?,
    })
}

fn short_cut(btf: &Btf<'_>) -> Result<ShortCutLayout, BtfError> {
    Ok(ShortCutLayout {
        queued: btf.offset_of("sock", &["sk_backlog", "rmem_alloc"])?,
        writes_next: btf.offset_of("tcp_sock", &["write_seq"])?,
        reads_next: btf.offset_of("tcp_sock", &["copied_seq"])?,
        upper_protocol: btf.offset_of("inet_connection_sock", &["icsk_ulp_ops"])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs a kernel with `CONFIG_DEBUG_INFO_BTF`, as every distribution of the test matrix has.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "reads the running kernel's type information")]
    fn running_kernel_has_every_field_that_we_read() {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux")
            .expect("no /sys/kernel/btf/vmlinux: run on a kernel with CONFIG_DEBUG_INFO_BTF=y");
        let layout = Layout::from_btf(&bytes).unwrap();
        assert!(layout.exit.is_ok() && layout.short_cut.is_ok(), "{layout:?}");
        assert_eq!(layout.listen, Ok(14));
        println!("{layout:?}");
    }
}
