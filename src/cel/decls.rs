//! Every function that expressions may call: its overloads with their types.
//!
//! Invariants:
//! - CEL-D1: overload ids are upstream's: cost functions tell overloads apart by them.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::ext;
use crate::types::{Param, Type};

pub struct Overload {
    pub id: &'static str,
    /// The first argument is the receiver.
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    /// Whether the types have parameters.
    pub generic: bool,
}

/// The overloads of a function, in upstream's order.
pub fn function(name: &str) -> Option<&'static [Overload]> {
    FUNCTIONS.get(name).map(Vec::as_slice)
}

/// The type that a type's name denotes.
pub fn type_by_name(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "dyn" => Type::Dyn,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "string" => Type::String,
        "null_type" => Type::Null,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "type" => Type::Type(None),
        "optional_type" => Type::optional(Type::Dyn),
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        _ => Type::Opaque(OPAQUE.iter().find(|opaque| **opaque == name)?),
    })
}

const OPAQUE: &[&str] = &[
    ext::QUANTITY,
    ext::IP,
    ext::CIDR,
    ext::URL,
    ext::SEMVER,
    ext::FORMAT,
    ext::AUTHORIZER,
    ext::PATH_CHECK,
    ext::GROUP_CHECK,
    ext::RESOURCE_CHECK,
    ext::DECISION,
];

static FUNCTIONS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut functions: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    let mut name = "";
    for line in DECLARATIONS.lines() {
        let line = line.trim();
        if let Some(function) = line.strip_suffix(" :") {
            name = function;
        } else if let Some((id, signature)) = line.split_once(' ') {
            functions.entry(name).or_default().push(overload(id, signature));
        }
    }
    for format in crate::formats::FORMATS {
        let result = Type::Opaque(ext::FORMAT);
        let overload = Overload { id: "format-constant", member: false, args: Vec::new(), result, generic: false };
        functions.entry(constant_format(format.key)).or_default().push(overload);
    }
    functions
});

fn constant_format(key: &str) -> &'static str {
    match key {
        "dns1123Label" => "format.dns1123Label",
        "dns1123Subdomain" => "format.dns1123Subdomain",
        "dns1035Label" => "format.dns1035Label",
        "qualifiedName" => "format.qualifiedName",
        "dns1123LabelPrefix" => "format.dns1123LabelPrefix",
        "dns1123SubdomainPrefix" => "format.dns1123SubdomainPrefix",
        "dns1035LabelPrefix" => "format.dns1035LabelPrefix",
        "labelValue" => "format.labelValue",
        "uri" => "format.uri",
        "uuid" => "format.uuid",
        "byte" => "format.byte",
        "date" => "format.date",
        _ => "format.datetime",
    }
}

/// Reads `.string int -> bool` (a leading dot: a member function).
fn overload(id: &'static str, signature: &'static str) -> Overload {
    let (args, result) = signature.split_once("->").expect("the table is ours");
    let (member, args) = match args.trim().strip_prefix('.') {
        Some(args) => (true, args),
        None => (false, args),
    };
    let args = args.split_whitespace().map(read_type).collect();
    Overload { id, member, args, result: read_type(result.trim()), generic: signature.contains(['A', 'B']) }
}

/// Reads a type without spaces: `map(A,B)`.
fn read_type(text: &'static str) -> Type {
    if let Some((head, inner)) = text.split_once('(') {
        let inner = inner.strip_suffix(')').expect("the table is ours");
        return match head {
            "list" => Type::list(read_type(inner)),
            "opt" => Type::optional(read_type(inner)),
            "type" => Type::Type(Some(read_type(inner).into())),
            _ => {
                let (key, value) = inner.split_once(',').expect("the table is ours");
                Type::map(read_type(key), read_type(value))
            }
        };
    }
    match text {
        "A" | "B" => Type::Param(Param::Named(text)),
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "quantity" => Type::Opaque(ext::QUANTITY),
        "ip" => Type::Opaque(ext::IP),
        "cidr" => Type::Opaque(ext::CIDR),
        "url" => Type::Opaque(ext::URL),
        "semver" => Type::Opaque(ext::SEMVER),
        "format" => Type::Opaque(ext::FORMAT),
        "authorizer" => Type::Opaque(ext::AUTHORIZER),
        "pathcheck" => Type::Opaque(ext::PATH_CHECK),
        "groupcheck" => Type::Opaque(ext::GROUP_CHECK),
        "resourcecheck" => Type::Opaque(ext::RESOURCE_CHECK),
        "decision" => Type::Opaque(ext::DECISION),
        name => type_by_name(name).expect("the table is ours"),
    }
}

const DECLARATIONS: &str = "
_?_:_ :
conditional bool A A -> A
_&&_ :
logical_and bool bool -> bool
_||_ :
logical_or bool bool -> bool
!_ :
logical_not bool -> bool
@not_strictly_false :
not_strictly_false bool -> bool
_==_ :
equals A A -> bool
_!=_ :
not_equals A A -> bool
_+_ :
add_bytes bytes bytes -> bytes
add_double double double -> double
add_duration_duration duration duration -> duration
add_duration_timestamp duration timestamp -> timestamp
add_timestamp_duration timestamp duration -> timestamp
add_int64 int int -> int
add_list list(A) list(A) -> list(A)
add_string string string -> string
add_uint64 uint uint -> uint
_/_ :
divide_double double double -> double
divide_int64 int int -> int
divide_uint64 uint uint -> uint
_%_ :
modulo_int64 int int -> int
modulo_uint64 uint uint -> uint
_*_ :
multiply_double double double -> double
multiply_int64 int int -> int
multiply_uint64 uint uint -> uint
-_ :
negate_double double -> double
negate_int64 int -> int
_-_ :
subtract_double double double -> double
subtract_duration_duration duration duration -> duration
subtract_int64 int int -> int
subtract_timestamp_duration timestamp duration -> timestamp
subtract_timestamp_timestamp timestamp timestamp -> duration
subtract_uint64 uint uint -> uint
_<_ :
less_bool bool bool -> bool
less_int64 int int -> bool
less_int64_double int double -> bool
less_int64_uint64 int uint -> bool
less_uint64 uint uint -> bool
less_uint64_double uint double -> bool
less_uint64_int64 uint int -> bool
less_double double double -> bool
less_double_int64 double int -> bool
less_double_uint64 double uint -> bool
less_string string string -> bool
less_bytes bytes bytes -> bool
less_timestamp timestamp timestamp -> bool
less_duration duration duration -> bool
_<=_ :
less_equals_bool bool bool -> bool
less_equals_int64 int int -> bool
less_equals_int64_double int double -> bool
less_equals_int64_uint64 int uint -> bool
less_equals_uint64 uint uint -> bool
less_equals_uint64_double uint double -> bool
less_equals_uint64_int64 uint int -> bool
less_equals_double double double -> bool
less_equals_double_int64 double int -> bool
less_equals_double_uint64 double uint -> bool
less_equals_string string string -> bool
less_equals_bytes bytes bytes -> bool
less_equals_timestamp timestamp timestamp -> bool
less_equals_duration duration duration -> bool
_>_ :
greater_bool bool bool -> bool
greater_int64 int int -> bool
greater_int64_double int double -> bool
greater_int64_uint64 int uint -> bool
greater_uint64 uint uint -> bool
greater_uint64_double uint double -> bool
greater_uint64_int64 uint int -> bool
greater_double double double -> bool
greater_double_int64 double int -> bool
greater_double_uint64 double uint -> bool
greater_string string string -> bool
greater_bytes bytes bytes -> bool
greater_timestamp timestamp timestamp -> bool
greater_duration duration duration -> bool
_>=_ :
greater_equals_bool bool bool -> bool
greater_equals_int64 int int -> bool
greater_equals_int64_double int double -> bool
greater_equals_int64_uint64 int uint -> bool
greater_equals_uint64 uint uint -> bool
greater_equals_uint64_double uint double -> bool
greater_equals_uint64_int64 uint int -> bool
greater_equals_double double double -> bool
greater_equals_double_int64 double int -> bool
greater_equals_double_uint64 double uint -> bool
greater_equals_string string string -> bool
greater_equals_bytes bytes bytes -> bool
greater_equals_timestamp timestamp timestamp -> bool
greater_equals_duration duration duration -> bool
_[_] :
index_list list(A) int -> A
index_map map(A,B) A -> B
optional_list_index_int opt(list(A)) int -> opt(A)
optional_map_index_value opt(map(A,B)) A -> opt(B)
_[?_] :
list_optindex_optional_int list(A) int -> opt(A)
optional_list_optindex_optional_int opt(list(A)) int -> opt(A)
map_optindex_optional_value map(A,B) A -> opt(B)
optional_map_optindex_optional_value opt(map(A,B)) A -> opt(B)
@in :
in_list A list(A) -> bool
in_map A map(A,B) -> bool
size :
bytes_size .bytes -> int
size_bytes bytes -> int
list_size .list(A) -> int
size_list list(A) -> int
map_size .map(A,B) -> int
size_map map(A,B) -> int
string_size .string -> int
size_string string -> int
type :
type A -> type(A)
bool :
bool_to_bool bool -> bool
string_to_bool string -> bool
bytes :
bytes_to_bytes bytes -> bytes
string_to_bytes string -> bytes
double :
double_to_double double -> double
int64_to_double int -> double
string_to_double string -> double
uint64_to_double uint -> double
duration :
duration_to_duration duration -> duration
int64_to_duration int -> duration
string_to_duration string -> duration
dyn :
to_dyn A -> dyn
int :
int64_to_int64 int -> int
double_to_int64 double -> int
duration_to_int64 duration -> int
string_to_int64 string -> int
timestamp_to_int64 timestamp -> int
uint64_to_int64 uint -> int
string :
string_to_string string -> string
bool_to_string bool -> string
bytes_to_string bytes -> string
double_to_string double -> string
duration_to_string duration -> string
int64_to_string int -> string
timestamp_to_string timestamp -> string
uint64_to_string uint -> string
ip_to_string ip -> string
cidr_to_string cidr -> string
timestamp :
timestamp_to_timestamp timestamp -> timestamp
int64_to_timestamp int -> timestamp
string_to_timestamp string -> timestamp
uint :
uint64_to_uint64 uint -> uint
double_to_uint64 double -> uint
int64_to_uint64 int -> uint
string_to_uint64 string -> uint
contains :
contains_string .string string -> bool
endsWith :
ends_with_string .string string -> bool
startsWith :
starts_with_string .string string -> bool
matches :
matches string string -> bool
matches_string .string string -> bool
getFullYear :
timestamp_to_year .timestamp -> int
timestamp_to_year_with_tz .timestamp string -> int
getMonth :
timestamp_to_month .timestamp -> int
timestamp_to_month_with_tz .timestamp string -> int
getDayOfYear :
timestamp_to_day_of_year .timestamp -> int
timestamp_to_day_of_year_with_tz .timestamp string -> int
getDayOfMonth :
timestamp_to_day_of_month .timestamp -> int
timestamp_to_day_of_month_with_tz .timestamp string -> int
getDate :
timestamp_to_day_of_month_1_based .timestamp -> int
timestamp_to_day_of_month_1_based_with_tz .timestamp string -> int
getDayOfWeek :
timestamp_to_day_of_week .timestamp -> int
timestamp_to_day_of_week_with_tz .timestamp string -> int
getHours :
timestamp_to_hours .timestamp -> int
timestamp_to_hours_with_tz .timestamp string -> int
duration_to_hours .duration -> int
getMinutes :
timestamp_to_minutes .timestamp -> int
timestamp_to_minutes_with_tz .timestamp string -> int
duration_to_minutes .duration -> int
getSeconds :
timestamp_to_seconds .timestamp -> int
timestamp_to_seconds_tz .timestamp string -> int
duration_to_seconds .duration -> int
getMilliseconds :
timestamp_to_milliseconds .timestamp -> int
timestamp_to_milliseconds_with_tz .timestamp string -> int
duration_to_milliseconds .duration -> int
optional.of :
optional_of A -> opt(A)
optional.ofNonZeroValue :
optional_ofNonZeroValue A -> opt(A)
optional.none :
optional_none -> opt(A)
value :
optional_value .opt(A) -> A
hasValue :
optional_hasValue .opt(A) -> bool
or :
optional_or_optional .opt(A) opt(A) -> opt(A)
orValue :
optional_orValue_value .opt(A) A -> A
optional.unwrap :
optional_unwrap list(opt(A)) -> list(A)
unwrapOpt :
optional_unwrapOpt .list(opt(A)) -> list(A)
first :
list_first .list(A) -> opt(A)
last :
list_last .list(A) -> opt(A)
cel.@mapInsert :
@mapInsert_map_key_value map(A,B) A B -> map(A,B)
@mapInsert_map_map map(A,B) map(A,B) -> map(A,B)
charAt :
string_char_at_int .string int -> string
indexOf :
string_index_of_string .string string -> int
string_index_of_string_int .string string int -> int
list_index_of .list(A) A -> int
lastIndexOf :
string_last_index_of_string .string string -> int
string_last_index_of_string_int .string string int -> int
list_last_index_of .list(A) A -> int
join :
list_join .list(string) -> string
list_join_string .list(string) string -> string
lowerAscii :
string_lower_ascii .string -> string
upperAscii :
string_upper_ascii .string -> string
replace :
string_replace_string_string .string string string -> string
string_replace_string_string_int .string string string int -> string
split :
string_split_string .string string -> list(string)
string_split_string_int .string string int -> list(string)
substring :
string_substring_int .string int -> string
string_substring_int_int .string int int -> string
trim :
string_trim .string -> string
format :
string_format .string list(dyn) -> string
strings.quote :
strings_quote string -> string
sets.contains :
list_sets_contains_list list(A) list(A) -> bool
sets.equivalent :
list_sets_equivalent_list list(A) list(A) -> bool
sets.intersects :
list_sets_intersects_list list(A) list(A) -> bool
isSorted :
list_int_is_sorted_bool .list(int) -> bool
list_uint_is_sorted_bool .list(uint) -> bool
list_double_is_sorted_bool .list(double) -> bool
list_bool_is_sorted_bool .list(bool) -> bool
list_duration_is_sorted_bool .list(duration) -> bool
list_timestamp_is_sorted_bool .list(timestamp) -> bool
list_string_is_sorted_bool .list(string) -> bool
list_bytes_is_sorted_bool .list(bytes) -> bool
sum :
list_int_sum_int .list(int) -> int
list_uint_sum_uint .list(uint) -> uint
list_double_sum_double .list(double) -> double
list_duration_sum_duration .list(duration) -> duration
min :
list_int_min_int .list(int) -> int
list_uint_min_uint .list(uint) -> uint
list_double_min_double .list(double) -> double
list_bool_min_bool .list(bool) -> bool
list_duration_min_duration .list(duration) -> duration
list_timestamp_min_timestamp .list(timestamp) -> timestamp
list_string_min_string .list(string) -> string
list_bytes_min_bytes .list(bytes) -> bytes
max :
list_int_max_int .list(int) -> int
list_uint_max_uint .list(uint) -> uint
list_double_max_double .list(double) -> double
list_bool_max_bool .list(bool) -> bool
list_duration_max_duration .list(duration) -> duration
list_timestamp_max_timestamp .list(timestamp) -> timestamp
list_string_max_string .list(string) -> string
list_bytes_max_bytes .list(bytes) -> bytes
find :
string_find_string .string string -> string
findAll :
string_find_all_string .string string -> list(string)
string_find_all_string_int .string string int -> list(string)
url :
string_to_url string -> url
isURL :
is_url_string string -> bool
getScheme :
url_get_scheme .url -> string
getHost :
url_get_host .url -> string
getHostname :
url_get_hostname .url -> string
getPort :
url_get_port .url -> string
getEscapedPath :
url_get_escaped_path .url -> string
getQuery :
url_get_query .url -> map(string,list(string))
quantity :
string_to_quantity string -> quantity
isQuantity :
is_quantity_string string -> bool
sign :
quantity_sign quantity -> int
isGreaterThan :
quantity_is_greater_than .quantity quantity -> bool
semver_is_greater_than .semver semver -> bool
isLessThan :
quantity_is_less_than .quantity quantity -> bool
semver_is_less_than .semver semver -> bool
compareTo :
quantity_compare_to .quantity quantity -> int
semver_compare_to .semver semver -> int
asApproximateFloat :
quantity_get_float .quantity -> double
asInteger :
quantity_get_int .quantity -> int
isInteger :
quantity_is_integer .quantity -> bool
add :
quantity_add .quantity quantity -> quantity
quantity_add_int .quantity int -> quantity
sub :
quantity_sub .quantity quantity -> quantity
quantity_sub_int .quantity int -> quantity
ip :
string_to_ip string -> ip
cidr_ip .cidr -> ip
isIP :
is_ip string -> bool
ip.isCanonical :
ip_is_canonical string -> bool
family :
ip_family .ip -> int
isUnspecified :
ip_is_unspecified .ip -> bool
isLoopback :
ip_is_loopback .ip -> bool
isLinkLocalMulticast :
ip_is_link_local_multicast .ip -> bool
isLinkLocalUnicast :
ip_is_link_local_unicast .ip -> bool
isGlobalUnicast :
ip_is_global_unicast .ip -> bool
cidr :
string_to_cidr string -> cidr
isCIDR :
is_cidr string -> bool
containsIP :
cidr_contains_ip_ip .cidr ip -> bool
cidr_contains_ip_string .cidr string -> bool
containsCIDR :
cidr_contains_cidr .cidr cidr -> bool
cidr_contains_cidr_string .cidr string -> bool
masked :
cidr_masked .cidr -> cidr
prefixLength :
cidr_prefix_length .cidr -> int
semver :
string_to_semver string -> semver
string_bool_to_semver string bool -> semver
isSemver :
is_semver_string string -> bool
is_semver_string_bool string bool -> bool
major :
semver_major .semver -> int
minor :
semver_minor .semver -> int
patch :
semver_patch .semver -> int
format.named :
format-named string -> opt(format)
validate :
format-validate .format string -> opt(list(string))
jsonpatch.escapeKey :
jsonpatch_escapeKey_string string -> string
path :
authorizer_path .authorizer string -> pathcheck
group :
authorizer_group .authorizer string -> groupcheck
serviceAccount :
authorizer_serviceaccount .authorizer string string -> authorizer
resource :
groupcheck_resource .groupcheck string -> resourcecheck
subresource :
resourcecheck_subresource .resourcecheck string -> resourcecheck
namespace :
resourcecheck_namespace .resourcecheck string -> resourcecheck
name :
resourcecheck_name .resourcecheck string -> resourcecheck
fieldSelector :
authorizer_fieldselector .resourcecheck string -> resourcecheck
labelSelector :
authorizer_labelselector .resourcecheck string -> resourcecheck
check :
pathcheck_check .pathcheck string -> decision
resourcecheck_check .resourcecheck string -> decision
errored :
decision_errored .decision -> bool
error :
decision_error .decision -> string
allowed :
decision_allowed .decision -> bool
reason :
decision_reason .decision -> string
";
