//! Programs as processes: spawned through the exec shim, each in its own cgroup, watched through a pidfd, output captured.

pub mod exec_shim;
