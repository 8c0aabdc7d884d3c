//! Power only while a task needs it: windows from end to end, with real programs inside of them.

mod dev;
mod run;
mod standing;
