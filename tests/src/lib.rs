//! What the end-to-end tests share: the real binary, backends, clients.
