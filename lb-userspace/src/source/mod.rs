//! Where configuration comes from. A source brings objects and says when to look again; it never judges them.

pub mod file;
pub mod watch;
