//! Compiles the etcd v3 protocol (no `protoc` needed).

fn main() {
    println!("cargo:rerun-if-changed=grpc/proto");
    let files = ["kv", "rpc", "v3lock", "v3election", "health"].map(|name| format!("grpc/proto/{name}.proto"));
    let files = protox::compile(files, ["grpc/proto"]).expect("the protos are valid");
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .bytes(".")
        .include_file("etcd_protos.rs")
        .compile_fds(files)
        .expect("the services can be generated");
}
