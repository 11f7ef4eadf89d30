//! The test kit: services, readers, stores that fail, and projects in folders that vanish.

#![allow(dead_code, reason = "a kit offers more than one subject uses")]

pub mod kafka;
pub mod kinesis;
pub mod proxy;
pub mod services;
pub mod stores;
pub mod sts;
pub mod time;
pub mod world;
