//! Compiles the .proto files with protox, so that nobody needs protoc, and leaves the descriptor set for reflection.

use std::{env, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["quorate/v1/session.proto", "quorate/v1/cluster.proto", "quorate/v1/recipes.proto", "quorate/v1/peer.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("quorate.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        // Their Debug is written by hand in src/convert.rs: secrets never reach a log.
        .skip_debug(["quorate.v1.OpenSession", "quorate.v1.AttachSession", "quorate.v1.Credential"])
        .compile_fds(descriptors)?;
    Ok(())
}
