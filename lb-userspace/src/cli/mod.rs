//! `lbctl`'s commands.
