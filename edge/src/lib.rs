//! Skeleton
pub mod xml;
