//! Single values as written in the file: text → a type that cannot hold anything wrong, or a refusal with a hint.

mod address;
mod header;
mod process;
mod quantity;
mod route;
mod vip;
mod word;

pub use address::MetricsBind;
pub use header::HeaderName;
pub use process::{CommandLine, Cores, Signal, Umask};
pub use route::{Name, ProbePath, RoutePath};
pub use vip::{Interface, LookupRows, ServerId};
pub use word::{DependencyWord, Forward, NatSource, OffSwitch, Persistence, Protocol, VipProtocol};

#[cfg(test)]
mod tests;
