//! Tests that only root can run: they become another user, or read another process's memory. `tests/run` asks for them.

mod access;
mod denials;
mod disk;
mod doctor;
mod grants;
mod memory;
mod pats;
mod peers;
mod units;
