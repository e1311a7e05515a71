//! What happens to a request, in the order it passes.
