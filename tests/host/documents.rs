//! The documents beside the programs: `commands` executes what pages show, and `wrong_values` and
//! `since` compare the tables of keys with what plugins do. What needs no program is in the target
//! `unprivileged`.

mod commands;
mod since;
mod wrong_values;
