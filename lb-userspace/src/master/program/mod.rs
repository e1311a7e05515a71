//! Programs as processes: spawned through the exec shim, each in its own cgroup, watched through a pidfd, output captured.

pub mod address;
pub mod cgroup;
pub mod exec_shim;
pub mod fork;
pub mod life;
pub mod order;
pub mod orphans;
pub mod output;
pub mod own;
pub mod spawn;

#[cfg(test)]
mod tests;
