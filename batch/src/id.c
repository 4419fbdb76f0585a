/*
 * id.c: message ids as people read them.
 */
#include <qbatch/id.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <qbase/assert.h>

static bool parse_id(const char *text, struct qbatch_id *ret_id);
static bool take_number(const char **at, size_t digits, int *ret_number);
static bool take_mark(const char **at, char mark);
static bool take_hex48(const char **at, uint64_t *ret_value);
static bool take_counter(const char **at, uint32_t *ret_counter);

const char *
qbatch_id_format(const struct qbatch_id *id, char *out)
{
    time_t seconds = (time_t)(id->time_ms / 1000);
    struct tm tm;
    Q_ASSERT(gmtime_r(&seconds, &tm) != NULL);
    size_t length = strftime(out, QBATCH_ID_TEXT_SIZE, "%Y%m%dT%H%M%S", &tm);
    (void)snprintf(
        out + length, QBATCH_ID_TEXT_SIZE - length, ".%03uZ-%012" PRIx64 "-%" PRIu32,
        (unsigned)(id->time_ms % 1000), id->producer, id->counter);
    return out;
}

enum q_err
qbatch_id_parse(const char *text, struct qbatch_id *ret_id)
{
    struct qbatch_id id;
    char canonical[QBATCH_ID_TEXT_SIZE];
    /* What does not come out as it went in (30 February, capital letters, leading zeros) would be a
     * second name of the same message. */
    if (!parse_id(text, &id) || strcmp(qbatch_id_format(&id, canonical), text) != 0) {
        return Q_FAIL(
            Q_INVALID, .what = q_text("'%s' is not a message id", text),
            .hint = "an id looks like 20260111T041502.113Z-9f3c01ab22cd-1");
    }
    *ret_id = id;
    return Q_OK;
}

static bool
parse_id(const char *text, struct qbatch_id *ret_id)
{
    const char *at = text;
    struct tm tm = { 0 };
    int milliseconds = 0;
    /* 48 bits of milliseconds last until the year 10889. */
    size_t date_digits = strcspn(text, "T");
    if (date_digits != 8 && date_digits != 9) return false;
    if (!take_number(&at, date_digits - 4, &tm.tm_year)) return false;
    if (!take_number(&at, 2, &tm.tm_mon) || !take_number(&at, 2, &tm.tm_mday)) return false;
    if (!take_mark(&at, 'T') || !take_number(&at, 2, &tm.tm_hour)) return false;
    if (!take_number(&at, 2, &tm.tm_min) || !take_number(&at, 2, &tm.tm_sec)) return false;
    if (!take_mark(&at, '.') || !take_number(&at, 3, &milliseconds)) return false;
    if (!take_mark(&at, 'Z') || !take_mark(&at, '-')) return false;
    if (!take_hex48(&at, &ret_id->producer) || !take_mark(&at, '-')) return false;
    if (!take_counter(&at, &ret_id->counter) || *at != '\0') return false;

    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    time_t seconds = timegm(&tm);
    if (seconds < 0) return false;
    ret_id->time_ms = (uint64_t)seconds * 1000 + (uint64_t)milliseconds;
    return ret_id->time_ms >> 48 == 0;
}

static bool
take_number(const char **at, size_t digits, int *ret_number)
{
    int number = 0;
    for (size_t i = 0; i < digits; i++, (*at)++) {
        if (**at < '0' || **at > '9') return false;
        number = number * 10 + (**at - '0');
    }
    *ret_number = number;
    return true;
}

static bool
take_mark(const char **at, char mark)
{
    if (**at != mark) return false;
    (*at)++;
    return true;
}

static bool
take_hex48(const char **at, uint64_t *ret_value)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t value = 0;
    for (int i = 0; i < 12; i++, (*at)++) {
        const char *digit = **at != '\0' ? strchr(digits, **at) : NULL;
        if (digit == NULL) return false;
        value = value << 4 | (uint64_t)(digit - digits);
    }
    *ret_value = value;
    return true;
}

static bool
take_counter(const char **at, uint32_t *ret_counter)
{
    uint64_t counter = 0;
    for (; **at >= '0' && **at <= '9'; (*at)++) {
        counter = counter * 10 + (uint64_t)(**at - '0');
        if (counter > UINT32_MAX) return false;
    }
    *ret_counter = (uint32_t)counter;
    return true;
}
