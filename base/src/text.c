/*
 * text.c: sizes, durations, times, JSON strings and near words.
 */
#include <qbase/text.h>

#include <inttypes.h>
#include <time.h>

#include <qbase/assert.h>

enum {
    WORD_MAX = 63
};

struct unit {
    const char *name;
    uint64_t factor;
};

static bool parse_digits(const char **text, uint64_t *ret_value);
static bool parse_with_unit(
    const char *text, const struct unit *units, size_t count, uint64_t *ret_value);
static void write_json_character(FILE *out, uint8_t character);
static unsigned edit_distance(const char *a, size_t a_length, const char *b, size_t b_length);
static unsigned min3(unsigned a, unsigned b, unsigned c);

enum q_err
q_text_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const struct unit units[] = {
        { "", 1 },
        { "B", 1 },
        { "KB", 1000 },
        { "MB", UINT64_C(1000) * 1000 },
        { "GB", UINT64_C(1000) * 1000 * 1000 },
        { "TB", UINT64_C(1000) * 1000 * 1000 * 1000 },
        { "KiB", UINT64_C(1) << 10 },
        { "MiB", UINT64_C(1) << 20 },
        { "GiB", UINT64_C(1) << 30 },
        { "TiB", UINT64_C(1) << 40 },
    };
    if (!parse_with_unit(text, units, sizeof(units) / sizeof(units[0]), ret_bytes))
        return Q_FAIL(Q_INVALID, .what = q_text("'%s' is not a size like 4096 or 64KiB", text));
    return Q_OK;
}

enum q_err
q_text_parse_duration(const char *text, uint64_t *ret_ns)
{
    static const struct unit units[] = {
        { "", UINT64_C(1000000000) },          { "us", UINT64_C(1000) },
        { "ms", UINT64_C(1000000) },           { "s", UINT64_C(1000000000) },
        { "m", UINT64_C(60) * 1000000000 },    { "h", UINT64_C(3600) * 1000000000 },
        { "d", UINT64_C(86400) * 1000000000 },
    };
    if (!parse_with_unit(text, units, sizeof(units) / sizeof(units[0]), ret_ns))
        return Q_FAIL(Q_INVALID, .what = q_text("'%s' is not a duration like 250ms or 5m", text));
    return Q_OK;
}

enum q_err
q_text_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value)
{
    const char *at = text;
    uint64_t value = 0;
    if (!parse_digits(&at, &value) || *at != '\0')
        return Q_FAIL(Q_INVALID, .what = q_text("'%s' is not a number", text));
    if (value < min || value > max) {
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("%s is not between %" PRIu64 " and %" PRIu64, text, min, max));
    }
    *ret_value = value;
    return Q_OK;
}

static bool
parse_with_unit(const char *text, const struct unit *units, size_t count, uint64_t *ret_value)
{
    uint64_t number = 0;
    if (!parse_digits(&text, &number)) return false;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, units[i].name) == 0) return q_mul_u64(number, units[i].factor, ret_value);
    }
    return false;
}

/* One digit at least; `*text` goes behind the last one. */
static bool
parse_digits(const char **text, uint64_t *ret_value)
{
    const char *at = *text;
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (!q_mul_u64(value, 10, &value)) return false;
        if (!q_add_u64(value, (uint64_t)(*at - '0'), &value)) return false;
    }
    if (at == *text) return false;
    *text = at;
    *ret_value = value;
    return true;
}

const char *
q_text_format_time(uint64_t wall_ms, char *out, size_t out_size)
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm tm;
    if (gmtime_r(&seconds, &tm) == NULL) tm = (struct tm){ .tm_mday = 1, .tm_year = 70 };
    (void)snprintf(
        out, out_size, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", tm.tm_year + 1900, tm.tm_mon + 1,
        tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (unsigned)(wall_ms % 1000));
    return out;
}

const char *
q_text_format_size(uint64_t bytes, char *out, size_t out_size)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    if (bytes < 1024) {
        (void)snprintf(out, out_size, "%" PRIu64 " B", bytes);
        return out;
    }

    /* Tenths of the unit in whole numbers, rounded; 1023.96 KiB becomes 1 MiB, not 1024 KiB. */
    unsigned power = (63u - (unsigned)__builtin_clzll(bytes)) / 10;
    uint64_t unit = UINT64_C(1) << (10 * power);
    uint64_t tenths = bytes / unit * 10 + (bytes % unit * 10 + unit / 2) / unit;
    if (tenths >= 10240) {
        tenths = 10;
        power++;
    }
    if (tenths % 10 == 0) {
        (void)snprintf(out, out_size, "%" PRIu64 " %s", tenths / 10, units[power]);
    } else {
        (void)snprintf(
            out, out_size, "%" PRIu64 ".%u %s", tenths / 10, (unsigned)(tenths % 10), units[power]);
    }
    return out;
}

void
q_text_write_json(FILE *out, struct q_bytes bytes)
{
    (void)fputc('"', out);
    for (size_t at = 0; at < bytes.size;) {
        size_t length = q_text_utf8_length(bytes.data + at, bytes.size - at);
        if (length == 0) {
            (void)fputs("\xEF\xBF\xBD", out);
            at++;
        } else if (length == 1) {
            write_json_character(out, bytes.data[at]);
            at++;
        } else {
            (void)fwrite(bytes.data + at, 1, length, out);
            at += length;
        }
    }
    (void)fputc('"', out);
}

size_t
q_text_utf8_length(const uint8_t *at, size_t left)
{
    uint8_t first = at[0];
    if (first < 0x80) return 1;

    /* The second byte's range keeps out overlong forms, surrogates and what is above U+10FFFF
     * (Unicode, table 3-7). */
    size_t length = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    if (length == 0 || length > left) return 0;
    uint8_t least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    uint8_t greatest = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (at[1] < least || at[1] > greatest) return 0;
    for (size_t i = 2; i < length; i++) {
        if ((at[i] & 0xC0) != 0x80) return 0;
    }
    return length;
}

static void
write_json_character(FILE *out, uint8_t character)
{
    switch (character) {
    case '"':
        (void)fputs("\\\"", out);
        break;
    case '\\':
        (void)fputs("\\\\", out);
        break;
    case '\n':
        (void)fputs("\\n", out);
        break;
    case '\r':
        (void)fputs("\\r", out);
        break;
    case '\t':
        (void)fputs("\\t", out);
        break;
    default:
        if (character < 0x20) {
            (void)fprintf(out, "\\u%04x", character);
        } else {
            (void)fputc(character, out);
        }
    }
}

const char *
q_text_nearest(const char *word, const char *const *candidates, size_t count)
{
    size_t word_length = strlen(word);
    if (word_length > WORD_MAX) return NULL;

    unsigned nearest_distance = UINT32_MAX;
    const char *nearest = NULL;
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(candidates[i]);
        if (length > WORD_MAX) continue;
        /* A third of the letters may be wrong, and always one, but never all of them. */
        size_t longer = q_max_u64(word_length, length);
        size_t allowed = q_max_u64(longer / 3, 1);
        unsigned distance = edit_distance(word, word_length, candidates[i], length);
        if (distance > allowed || distance >= longer || distance >= nearest_distance) continue;
        nearest_distance = distance;
        nearest = candidates[i];
    }
    return nearest;
}

/* Letters inserted, removed, replaced, or swapped with the next one (optimal string alignment). */
static unsigned
edit_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    Q_ASSERT(a_length <= WORD_MAX);
    Q_ASSERT(b_length <= WORD_MAX);

    unsigned rows[3][WORD_MAX + 1];
    unsigned *before_last = rows[0];
    unsigned *last = rows[1];
    unsigned *row = rows[2];
    for (size_t j = 0; j <= b_length; j++)
        last[j] = (unsigned)j;
    for (size_t i = 1; i <= a_length; i++) {
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_length; j++) {
            unsigned replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            row[j] = min3(replaced, last[j] + 1, row[j - 1] + 1);
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before_last[j - 2] + 1 < row[j]) row[j] = before_last[j - 2] + 1;
        }
        unsigned *free_row = before_last;
        before_last = last;
        last = row;
        row = free_row;
    }
    return last[b_length];
}

static unsigned
min3(unsigned a, unsigned b, unsigned c)
{
    unsigned least = a < b ? a : b;
    return least < c ? least : c;
}
