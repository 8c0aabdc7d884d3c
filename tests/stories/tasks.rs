//! Power only while a task needs it: windows from end to end, with real programs inside of them.

mod run;
mod standing;
