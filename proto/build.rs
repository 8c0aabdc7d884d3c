//! Turns the `.proto` files into Rust and into descriptor sets, with a compiler in Rust: nothing has to be installed.
//!
//! Two runs. The Workload API stands apart because it has no package, and because what reflection shows of it must be
//! the published interface and nothing else (SPIFFE Workload Endpoint §7).

#![allow(
    clippy::disallowed_methods,
    reason = "Cargo speaks to build scripts through the environment"
)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

const WORKLOAD: &[&str] = &["spiffe/workload/workloadapi.proto"];

const OTHERS: &[&str] = &[
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
    "mayfly/agent/v1/task.proto",
    "mayfly/agent/v1/watch.proto",
    "mayfly/audit/v1/audit.proto",
    "mayfly/task/v1/exception.proto",
    "mayfly/task/v1/task.proto",
    "mayfly/workload/v1/task.proto",
    "spire/api/server/agent/v1/agent.proto",
    "spire/api/server/bundle/v1/bundle.proto",
    "spire/api/server/debug/v1/debug.proto",
    "spire/api/server/entry/v1/entry.proto",
    "spire/api/server/logger/v1/logger.proto",
    "spire/api/server/svid/v1/svid.proto",
];

/// Messages that hold a key, a token or evidence; a name stands for its nested messages and oneofs too. Their `Debug`
/// is in `src/redact.rs`: what is here and not there does not compile, nor the other way round.
const SECRET: &[&str] = &[
    // Workload API
    ".X509SVID",
    ".JWTSVID",
    ".WITSVID",
    ".ValidateJWTSVIDRequest",
    // the others
    ".spire.api.types.AttestationData",
    ".spire.api.types.JoinToken",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.WITSVID",
    ".spire.api.server.agent.v1.AttestAgentRequest",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    generate(&root, &out.join("workload"), WORKLOAD)?;
    generate(&root, &out.join("others"), OTHERS)?;
    println!("cargo::rerun-if-changed=build.rs");
    // A folder stands for all that is in it, so that a new file is seen as well.
    for folder in ["google", "mayfly", "spiffe", "spire"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    Ok(())
}

/// Writes `mod.rs`, which holds the packages as modules, and `descriptors.bin`, with all imports, into `out`.
fn generate(root: &Path, out: &Path, files: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([root])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(files)?;
    let mut descriptors = compiler.file_descriptor_set();

    fs::create_dir_all(out)?;
    tonic_prost_build::configure()
        .out_dir(out)
        .include_file("mod.rs")
        .codec_path("crate::codec::SmallBuffers")
        .emit_rerun_if_changed(false)
        .skip_debug(SECRET)
        // Equal messages have equal bytes.
        .btree_map(".")
        .compile_fds(descriptors.clone())?;

    // Comments have become Rust documentation; the program itself does not carry them.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    Ok(())
}
