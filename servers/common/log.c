/*
 * log.c: lines to stderr.
 */
#include "common/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qbase/text.h>

enum {
    QUOTE_BUFFERS = 8,
    QUOTE_MAX = 768,
};

struct event_row {
    const char *name;
    enum srv_level level;
};

static const struct event_row event_rows[] = {
#define EVENT_ROW(name, level, meaning) { #name, SRV_##level },
    SRV_EVENT_LIST(EVENT_ROW)
#undef EVENT_ROW
};

static const char *const level_names[] = { "error", "warn", "info", "debug" };
static const char *const level_labels[] = { "ERROR", "WARN", "INFO", "DEBUG" };

static atomic_int level_now = SRV_INFO;

static void write_line(const char *line, size_t length);
static char *quote_buffer(void);

void
srv_log_set_level(enum srv_level level)
{
    /* Relaxed: a line more or less does not matter. */
    atomic_store_explicit(&level_now, (int)level, memory_order_relaxed);
}

enum q_err
srv_log_parse_level(const char *text, enum srv_level *ret_level)
{
    for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *ret_level = (enum srv_level)i;
            return Q_OK;
        }
    }
    return Q_FAIL(
        Q_INVALID, .what = q_text("'%s' is no log level: error, warn, info or debug", text));
}

void
srv_log(enum srv_event event, const char *format, ...)
{
    const struct event_row *row = &event_rows[event];
    if ((int)row->level > atomic_load_explicit(&level_now, memory_order_relaxed)) return;

    char line[SRV_LINE_MAX];
    char now[32];
    int at = snprintf(
        line, sizeof(line), "%s %s ",
        q_text_format_time(q_clock_wall_ms(q_clock_system()), now, sizeof(now)),
        level_labels[row->level]);
    int name_at = at;
    at += snprintf(line + at, sizeof(line) - (size_t)at, "%s ", row->name);
    for (char *c = line + name_at; *c; c++) {
        if (*c == '_') *c = '-';
    }

    va_list args;
    va_start(args, format);
    int length = vsnprintf(line + at, sizeof(line) - (size_t)at, format, args);
    va_end(args);
    if (length < 0) return;
    write_line(line, q_min_u64((uint64_t)at + (uint64_t)length, sizeof(line) - 1));
}

void
srv_say(const char *format, ...)
{
    char line[SRV_LINE_MAX];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (length < 0) return;
    write_line(line, q_min_u64((uint64_t)length, sizeof(line) - 1));
}

/* `line` has room for one more byte. */
static void
write_line(const char *line, size_t length)
{
    char out[SRV_LINE_MAX + 1];
    memcpy(out, line, length);
    out[length++] = '\n';

    /* Nobody is left to be told when stderr is gone. */
    ssize_t written = write(STDERR_FILENO, out, length);
    (void)written;
}

const char *
srv_quote(const char *text)
{
    if (text[0] && !text[strcspn(text, " \"=\n\t\r")]) return text;

    char *out = quote_buffer();
    size_t at = 0;
    out[at++] = '"';
    for (const char *c = text; *c && at < QUOTE_MAX - 3; c++) {
        if (*c == '"' || *c == '\\') out[at++] = '\\';
        out[at] = *c;
        if ((unsigned char)*c < ' ') out[at] = ' ';
        at++;
    }
    out[at++] = '"';
    out[at] = '\0';
    return out;
}

const char *
srv_fault_keys(const struct q_fault *fault)
{
    char line[Q_FAULT_LINE_MAX];
    const char *hint = fault->hint[0] ? fault->hint : q_err_hint(fault->err);
    char *out = quote_buffer();
    (void)snprintf(
        out, QUOTE_MAX, "error=%s cause=%s hint=%s", q_err_name(fault->err),
        srv_quote(q_fault_format(fault, line, sizeof(line))), srv_quote(hint));
    return out;
}

static char *
quote_buffer(void)
{
    static _Thread_local char buffers[QUOTE_BUFFERS][QUOTE_MAX];
    static _Thread_local unsigned next;

    next = (next + 1) % QUOTE_BUFFERS;
    return buffers[next];
}
