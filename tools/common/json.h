/*
 * json.h: write JSON to stdout without counting commas.
 *
 *     struct json json = { 0 };
 *     json_open(&json, NULL, '{');
 *     json_number(&json, "answer", 42);
 *     json_close(&json, '}');
 *
 * `name` is NULL within an array and for the outermost value.
 */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

#include <qbase/bytes.h>

struct json {
    bool comma; /* something stands before the next value */
};

/* A comma if one is due, then NAME followed by `suffix`; for a value that is printed otherwise. */
void json_name(struct json *json, const char *name, const char *suffix);
void json_open(struct json *json, const char *name, char bracket);
void json_close(struct json *json, char bracket);
void json_number(struct json *json, const char *name, uint64_t value);
void json_real(struct json *json, const char *name, double value);
void json_bool(struct json *json, const char *name, bool value);
/* Bytes that are not UTF-8 become U+FFFD. */
void json_text(struct json *json, const char *name, struct q_bytes value);
/* NAME if the bytes are UTF-8, else NAME_base64: what is read back is what was there. */
void json_bytes(struct json *json, const char *name, struct q_bytes value);
/* Hexadecimal digits. */
void json_hex(struct json *json, const char *name, struct q_bytes value);
/* NAME as RFC 3339, and NAME_ms. */
void json_time(struct json *json, const char *name, uint64_t ms);

bool json_is_utf8(struct q_bytes bytes);

#endif /* TOOLS_JSON_H */
