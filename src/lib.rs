//! Skeleton

pub mod imp;
