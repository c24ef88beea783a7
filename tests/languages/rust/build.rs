//! Writes a table from the name of each message to the generated type, from the descriptors.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

fn arms(out: &mut String, name: &str, path: &str, messages: &[DescriptorProto]) {
    for message in messages {
        if message
            .options
            .as_ref()
            .is_some_and(|options| options.map_entry())
        {
            continue;
        }
        let name = format!("{name}.{}", message.name());
        let kind = format!("{path}::{}", message.name().to_upper_camel_case());
        writeln!(out, "{name:?} => through::<smg_grpc_proto::{kind}>(wire),").unwrap();
        let inside = format!("{path}::{}", message.name().to_snake_case());
        arms(out, &name, &inside, &message.nested_type);
    }
}

fn main() {
    let descriptors = env::var("SMG_DESCRIPTORS").expect("SMG_DESCRIPTORS");
    println!("cargo:rerun-if-env-changed=SMG_DESCRIPTORS");
    println!("cargo:rerun-if-changed={descriptors}");
    let bytes = fs::read(descriptors).unwrap();
    let mut out = String::from("match name {\n");
    for file in FileDescriptorSet::decode(&bytes[..]).unwrap().file {
        if !file.package().starts_with("google.") {
            let path = file.package().replace('.', "::");
            arms(&mut out, file.package(), &path, &file.message_type);
        }
    }
    out += "_ => Err(format!(\"no message {name}\")),\n}\n";
    let folder = env::var("OUT_DIR").unwrap();
    fs::write(Path::new(&folder).join("messages.rs"), out).unwrap();
    fs::write(Path::new(&folder).join("descriptors.binpb"), bytes).unwrap();
}
