//! The short-cut between two local sockets: how the kernel program finds the other end.
