//! Steering without a network: a described node, traffic made from a seed, the kernel's programs by `BPF_PROG_TEST_RUN`, and the same
//! decisions on the host.

pub mod agreement;
pub mod cost;
pub mod kernel;
pub mod smoke;
pub mod traffic;
