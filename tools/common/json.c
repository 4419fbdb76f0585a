#include "json.h"

#include <inttypes.h>
#include <stdio.h>

#include <qbase/text.h>

enum {
    TIME_SIZE = 32
};

static void write_base64(struct q_bytes bytes);

void
json_name(struct json *json, const char *name, const char *suffix)
{
    if (json->comma) (void)putchar(',');
    json->comma = true;
    if (name != NULL) (void)printf("\"%s%s\":", name, suffix);
}

void
json_open(struct json *json, const char *name, char bracket)
{
    json_name(json, name, "");
    (void)putchar(bracket);
    json->comma = false;
}

void
json_close(struct json *json, char bracket)
{
    (void)putchar(bracket);
    json->comma = true;
}

void
json_number(struct json *json, const char *name, uint64_t value)
{
    json_name(json, name, "");
    (void)printf("%" PRIu64, value);
}

void
json_real(struct json *json, const char *name, double value)
{
    json_name(json, name, "");
    (void)printf("%.3f", value);
}

void
json_bool(struct json *json, const char *name, bool value)
{
    json_name(json, name, "");
    (void)fputs(value ? "true" : "false", stdout);
}

void
json_text(struct json *json, const char *name, struct q_bytes value)
{
    json_name(json, name, "");
    q_text_write_json(stdout, value);
}

void
json_bytes(struct json *json, const char *name, struct q_bytes value)
{
    bool text = json_is_utf8(value);
    json_name(json, name, text ? "" : "_base64");
    if (text)
        q_text_write_json(stdout, value);
    else
        write_base64(value);
}

static void
write_base64(struct q_bytes bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (void)putchar('"');
    for (size_t i = 0; i < bytes.size; i += 3) {
        size_t left = bytes.size - i;
        uint32_t word = (uint32_t)bytes.data[i] << 16;
        if (left > 1) word |= (uint32_t)bytes.data[i + 1] << 8;
        if (left > 2) word |= bytes.data[i + 2];
        (void)putchar(digits[word >> 18]);
        (void)putchar(digits[word >> 12 & 63]);
        (void)putchar(left > 1 ? digits[word >> 6 & 63] : '=');
        (void)putchar(left > 2 ? digits[word & 63] : '=');
    }
    (void)putchar('"');
}

void
json_hex(struct json *json, const char *name, struct q_bytes value)
{
    json_name(json, name, "");
    (void)putchar('"');
    for (size_t i = 0; i < value.size; i++)
        (void)printf("%02x", value.data[i]);
    (void)putchar('"');
}

void
json_time(struct json *json, const char *name, uint64_t ms)
{
    char text[TIME_SIZE];
    json_text(json, name, q_bytes_from_text(q_text_format_time(ms, text, sizeof(text))));
    json_name(json, name, "_ms");
    (void)printf("%" PRIu64, ms);
}

bool
json_is_utf8(struct q_bytes bytes)
{
    for (size_t at = 0; at < bytes.size;) {
        size_t size = q_text_utf8_length(bytes.data + at, bytes.size - at);
        if (size == 0) return false;
        at += size;
    }
    return true;
}
