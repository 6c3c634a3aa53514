//! Compiles the CRI protocol (no `protoc` needed).

fn main() {
    println!("cargo:rerun-if-changed=cri/proto/api.proto");
    let files = protox::compile(["cri/proto/api.proto"], ["cri/proto"]).expect("the CRI proto is valid");
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .compile_fds(files)
        .expect("the CRI client can be generated");
}
