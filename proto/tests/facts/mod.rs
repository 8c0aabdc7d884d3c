//! Writes a set of descriptors down as a table: one fact a line, sorted, without comments, options and file names.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

/// The facts of all files but Google's own well-known types.
///
/// ```text
/// message spire.api.types.Selector
/// field spire.api.types.Selector.type 1 string
/// field spire.api.types.Entry.selectors 4 repeated spire.api.types.Selector
/// value spire.api.types.LogLevel.PANIC 1
/// rpc spire.api.server.debug.v1.Debug.GetInfo <request> -> <response>
/// ```
pub(crate) fn facts(set: &FileDescriptorSet) -> Vec<String> {
    let mut lines = Vec::new();
    for file in set.file.iter().filter(|file| file.package() != "google.protobuf") {
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
        for message in &file.message_type {
            message_facts(&mut lines, file.package(), message);
        }
        for item in &file.enum_type {
            enum_facts(&mut lines, file.package(), item);
        }
        for service in &file.service {
            service_facts(&mut lines, file.package(), service);
        }
    }
    lines.sort();
    lines
}

fn message_facts(lines: &mut Vec<String>, scope: &str, message: &DescriptorProto) {
    let name = join(scope, message.name());
    lines.push(format!("message {name}"));
    for field in &message.field {
        lines.push(field_fact(&name, message, field));
    }
    for nested in &message.nested_type {
        message_facts(lines, &name, nested);
    }
    for item in &message.enum_type {
        enum_facts(lines, &name, item);
    }
}

fn field_fact(message_name: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = match (field.label(), field.oneof_index) {
        (Label::Repeated, _) => "repeated ".to_owned(),
        (_, Some(_)) if field.proto3_optional() => "optional ".to_owned(),
        (_, Some(index)) => format!(
            "oneof:{} ",
            message.oneof_decl[usize::try_from(index).expect("an index")].name()
        ),
        _ => String::new(),
    };
    let kind = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    format!("field {message_name}.{} {} {label}{kind}", field.name(), field.number())
}

fn enum_facts(lines: &mut Vec<String>, scope: &str, item: &EnumDescriptorProto) {
    let name = join(scope, item.name());
    for value in &item.value {
        lines.push(format!("value {name}.{} {}", value.name(), value.number()));
    }
}

fn service_facts(lines: &mut Vec<String>, scope: &str, service: &ServiceDescriptorProto) {
    let name = join(scope, service.name());
    for rpc in &service.method {
        let stream = |streaming: bool| if streaming { "stream " } else { "" };
        lines.push(format!(
            "rpc {name}.{} {}{} -> {}{}",
            rpc.name(),
            stream(rpc.client_streaming()),
            rpc.input_type().trim_start_matches('.'),
            stream(rpc.server_streaming()),
            rpc.output_type().trim_start_matches('.'),
        ));
    }
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}
