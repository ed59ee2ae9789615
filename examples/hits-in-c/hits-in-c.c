// A recipe in C: counts the hits of every key. It proves that the contract is not Rust's alone.
//
// No library and no generator: the contract's functions are imports and exports of a plain WebAssembly module, with values
// laid out as the component model's canonical ABI says (a text is a pointer and a length; a result is a byte that tells ok
// from error, and the value after it). The encoder makes the component; see the README beside this file.

#include <stddef.h>
#include <stdint.h>

#define IMPORT(interface, name) __attribute__((import_module("quorate:recipe/" interface "@1.0.0"), import_name(name)))
#define EXPORT(name) __attribute__((export_name("quorate:recipe/handler@1.0.0#" name)))

typedef struct {
  const void *at;
  size_t length;
} text;

#define TEXT(literal) ((text){literal, sizeof literal - 1})

// result<node, tree-error>; only the beginning of the stat is of interest.
typedef struct {
  uint8_t failed;
  union {
    uint8_t error;
    struct {
      text data;
      uint64_t stat[7];
    };
  } __attribute__((aligned(8)));
} node_result;

typedef struct {
  uint8_t failed;
  union {
    uint8_t error;
    uint64_t stat[7];
  } __attribute__((aligned(8)));
} stat_result;

IMPORT("tree", "get") void tree_get(const void *path, size_t length, node_result *result);
IMPORT("tree", "create")
void tree_create(const void *path, size_t length, const void *data, size_t size, int32_t lifetime, int64_t session_or_ttl,
                 stat_result *result);
IMPORT("tree", "set")
void tree_set(const void *path, size_t length, const void *data, size_t size, int32_t has_version, int32_t version,
              stat_result *result);

enum { TREE_NO_NODE = 0 };
enum { UNKNOWN_METHOD = 0, BAD_ARGUMENTS = 1, UNSUPPORTED = 8, INTERNAL = 9 };

// An instance serves one call, so memory is only ever taken: whatever a call needs, the host's values included.
static uint8_t arena[1 << 20] __attribute__((aligned(16)));
static size_t used;

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  size_t start = (used + align - 1) & ~(align - 1);
  if (size > sizeof arena || start > sizeof arena - size) __builtin_trap();
  used = start + size;
  for (size_t i = 0; i < old_size && i < size; i++) arena[start + i] = ((uint8_t *)old)[i];
  return arena + start;
}

static int equal(text a, text b) {
  if (a.length != b.length) return 0;
  for (size_t i = 0; i < a.length; i++)
    if (((const char *)a.at)[i] != ((const char *)b.at)[i]) return 0;
  return 1;
}

// Arguments are {"key":"NAME"}, where NAME needs no escapes. A recipe with more of them brings a JSON reader.
static int key_of(const char *args, size_t length, text *key) {
  const text before = TEXT("{\"key\":\""), after = TEXT("\"}");
  if (length <= before.length + after.length) return 0;
  if (!equal((text){args, before.length}, before)) return 0;
  if (!equal((text){args + length - after.length, after.length}, after)) return 0;
  *key = (text){args + before.length, length - before.length - after.length};
  if (key->length > 200) return 0;
  for (size_t i = 0; i < key->length; i++) {
    char c = ((const char *)key->at)[i];
    int good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    if (!good) return 0;
  }
  return 1;
}

static uint64_t number_of(text digits) {
  uint64_t number = 0;
  for (size_t i = 0; i < digits.length; i++) number = number * 10 + (uint64_t)(((const char *)digits.at)[i] - '0');
  return number;
}

static text digits_of(uint64_t number) {
  static char buffer[20];
  size_t at = sizeof buffer;
  do buffer[--at] = (char)('0' + number % 10);
  while ((number /= 10) != 0);
  return (text){buffer + at, sizeof buffer - at};
}

static text reply_of(uint64_t count) {
  static char buffer[40];
  const text before = TEXT("{\"count\":"), digits = digits_of(count);
  size_t at = 0;
  for (size_t i = 0; i < before.length; i++) buffer[at++] = ((const char *)before.at)[i];
  for (size_t i = 0; i < digits.length; i++) buffer[at++] = ((const char *)digits.at)[i];
  buffer[at++] = '}';
  return (text){buffer, at};
}

// The result of each export, by the layout of its type. `call` answers with a variant that can hold 64 bits, so its values
// are aligned to 8; the others' are aligned to 4.
static struct {
  uint8_t failed;
  union {
    struct {
      uint8_t parked;
      text reply __attribute__((aligned(8)));
    };
    struct {
      uint8_t code;
      text detail;
    };
  } __attribute__((aligned(8)));
} called;

static struct {
  uint8_t failed;
  union {
    text reply;
    struct {
      uint8_t code;
      text detail;
    };
  };
} plain;

typedef struct {
  uint8_t code;
  text detail;
} failure;

static const failure no_method = {UNKNOWN_METHOD, {"no such method; there are `hit` and `count`", 43}};
static const failure no_key = {BAD_ARGUMENTS, {"arguments are {\"key\":\"NAME\"}, of letters, digits, - and _", 58}};
static const failure odd_tree = {INTERNAL, {"the tree refused", 16}};

// Counts; with `more` it adds one first.
static const failure *count(const char *args, size_t length, int more, uint64_t *found) {
  text key;
  if (!key_of(args, length, &key)) return &no_key;
  static node_result node;
  static stat_result stat;
  tree_get(key.at, key.length, &node);
  if (node.failed && node.error != TREE_NO_NODE) return &odd_tree;
  *found = node.failed ? 0 : number_of(node.data);
  if (!more) return NULL;
  *found += 1;
  text data = digits_of(*found);
  if (node.failed)
    tree_create(key.at, key.length, data.at, data.length, 0, 0, &stat);
  else
    tree_set(key.at, key.length, data.at, data.length, 0, 0, &stat);
  return stat.failed ? &odd_tree : NULL;
}

EXPORT("call") void *handler_call(const char *name, size_t length, const char *args, size_t size) {
  uint64_t found = 0;
  const failure *why = equal((text){name, length}, TEXT("hit")) ? count(args, size, 1, &found) : &no_method;
  called.failed = why != NULL;
  if (why) {
    called.code = why->code;
    called.detail = why->detail;
  } else {
    called.parked = 0;
    called.reply = reply_of(found);
  }
  return &called;
}

EXPORT("query") void *handler_query(const char *name, size_t length, const char *args, size_t size) {
  uint64_t found = 0;
  const failure *why = equal((text){name, length}, TEXT("count")) ? count(args, size, 0, &found) : &no_method;
  plain.failed = why != NULL;
  if (why) {
    plain.code = why->code;
    plain.detail = why->detail;
  } else {
    plain.reply = reply_of(found);
  }
  return &plain;
}

typedef struct {
  text name;
  uint8_t read_only, may_park;
  text doc;
} method;

static const method methods[] = {
    {{"hit", 3}, 0, 0, {"key -> count, this hit included", 31}},
    {{"count", 5}, 1, 0, {"key -> count", 12}},
};

static struct {
  text name, version;
  uint32_t state_version, min_state_version;
  const method *methods;
  size_t method_count;
  const void *wants;
  size_t want_count;
  uint8_t hears_of_sessions, of_which;
} descriptor = {{"hits-in-c", 9}, {"1.0.0", 5}, 1, 1, methods, 2, methods, 0, 0, 0};

EXPORT("describe") void *handler_describe(void) { return &descriptor; }

// There is nothing to set up, and nothing to hear of.
EXPORT("init") void *handler_init(void) { return &plain; }

EXPORT("on-session-closed")
void *handler_on_session_closed(int64_t session, int32_t why, void *removed, size_t removed_count, void *lost,
                                size_t lost_count) {
  (void)session, (void)why, (void)removed, (void)removed_count, (void)lost, (void)lost_count;
  return &plain;
}

EXPORT("on-call-lost")
void *handler_on_call_lost(int64_t id, int64_t session, void *tag, size_t tag_length, void *note, size_t note_length,
                           int32_t reason) {
  (void)id, (void)session, (void)tag, (void)tag_length, (void)note, (void)note_length, (void)reason;
  return &plain;
}

EXPORT("on-timer") void *handler_on_timer(void *name, size_t length, void *payload, size_t size) {
  (void)name, (void)length, (void)payload, (void)size;
  return &plain;
}

EXPORT("migrate") void *handler_migrate(int32_t from_state, int32_t has_cursor, void *cursor, size_t size) {
  (void)from_state, (void)has_cursor, (void)cursor, (void)size;
  plain.failed = 1;
  plain.code = UNSUPPORTED;
  plain.detail = TEXT("there is one layout of the state");
  return &plain;
}
