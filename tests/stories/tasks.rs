//! Power only while a task needs it: windows from end to end, with real programs inside of them.

mod approvals;
mod breakglass;
mod clock;
mod dev;
mod policy;
mod revoke;
mod run;
mod sdks;
mod single_use;
mod standing;
