//! placeholder
/// placeholder
pub struct LocalLauncher;
/// placeholder
pub struct Stream;
