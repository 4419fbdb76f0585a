/*
 * options.c: options by their names, and connecting by one line of text.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <qbase/bytes.h>
#include <qbase/err.h>
#include <qbase/text.h>
#include <qmq/qmq.h>

#include "option_list.h"

enum {
    NAMES_MAX = 32,
    TEXT_MAX = 1024, /* of a connection string */
    PORT = 20880,
};

enum kind {
    TEXT,
    FLAG,
    NUMBER,
    NUMBER64,
    SIZE,
    SIZE64,
    MODE,
    DUPLICATES,
    START,
};

struct option {
    const char *name;
    enum kind kind;
    size_t at; /* in its struct */
};

/* The options of one struct. */
struct table {
    const char *of;
    const struct option *options;
    size_t count;
};

/* Words of an enum, by its numbers. */
struct words {
    const char *words[8];
    size_t count;
};

static const struct words words[] = {
    [FLAG] = { { "false", "true" }, 2 },
    [MODE] = { { "default", "async", "sync" }, 3 },
    [DUPLICATES] = { { "maybe", "never" }, 2 },
    [START] = { { "default", "earliest", "latest", "time", "sequence" }, 5 },
};

#define CLIENT_ROW(kind, field, fallback, meaning)                                                 \
    { #field, kind, offsetof(struct qmq_client_options, field) },
#define PRODUCER_ROW(kind, field, fallback, meaning)                                               \
    { #field, kind, offsetof(struct qmq_producer_options, field) },
#define CONSUMER_ROW(kind, field, fallback, meaning)                                               \
    { #field, kind, offsetof(struct qmq_consumer_options, field) },
#define PUSH_ROW(kind, field, fallback, meaning)                                                   \
    { #field, kind, offsetof(struct qmq_push_options, field) },
#define READER_ROW(kind, field, fallback, meaning)                                                 \
    { #field, kind, offsetof(struct qmq_reader_options, field) },

static const struct option client_options[] = { CLIENT_OPTIONS(CLIENT_ROW) };
static const struct option producer_options[] = { PRODUCER_OPTIONS(PRODUCER_ROW) };
static const struct option consumer_options[] = { CONSUMER_OPTIONS(CONSUMER_ROW) };
static const struct option push_options[] = { PUSH_OPTIONS(PUSH_ROW) };
static const struct option reader_options[] = { READER_OPTIONS(READER_ROW) };

#define TABLE(of, options)                                                                         \
    {                                                                                              \
        of, options, sizeof(options) / sizeof(options[0])                                          \
    }
static const struct table client_table = TABLE("client", client_options);
static const struct table producer_table = TABLE("producer", producer_options);
static const struct table consumer_table = TABLE("consumer", consumer_options);
static const struct table push_table = TABLE("push consumer", push_options);
static const struct table reader_table = TABLE("reader", reader_options);

/* A connection string, taken apart in its own copy. */
struct target {
    char text[TEXT_MAX];
    char meta[TEXT_MAX];
    const char *transport; /* "tcp" */
    char *places;          /* "host:port,host:port" */
    char *parameters;      /* "name=value&…"; "" */
};

/* All that is wrong, as one text. */
struct mistakes {
    char what[Q_FAULT_TEXT_MAX];
    char hint[Q_FAULT_TEXT_MAX];
    size_t size;
};

static enum q_err set(
    const struct table *table, void *options, const char *name, const char *value);
static enum q_err fail_unknown(const struct table *table, const char *name);
static enum q_err set_value(const struct option *option, void *at, const char *value);
static enum q_err set_word(const struct option *option, uint32_t *at, const char *value);
static enum q_err set_number(
    const struct option *option, const char *value, uint64_t max, uint64_t *ret_number);
static enum q_err connect_to(const char *text, struct qmq_client **ret_client);
static enum q_err take_apart(const char *text, struct target *target);
static enum q_err read_parameters(struct target *target, struct qmq_client_options *options);
static bool decode(char *text);
static void note_mistake(struct mistakes *mistakes);
static enum q_err connect_to_one(
    struct target *target,
    const struct qmq_client_options *options,
    const char *place,
    struct qmq_client **ret_client);

int
qmq_client_option_set(struct qmq_client_options *options, const char *name, const char *value)
{
    return set(&client_table, options, name, value);
}

int
qmq_producer_option_set(struct qmq_producer_options *options, const char *name, const char *value)
{
    return set(&producer_table, options, name, value);
}

int
qmq_consumer_option_set(struct qmq_consumer_options *options, const char *name, const char *value)
{
    return set(&consumer_table, options, name, value);
}

int
qmq_push_option_set(struct qmq_push_options *options, const char *name, const char *value)
{
    return set(&push_table, options, name, value);
}

int
qmq_reader_option_set(struct qmq_reader_options *options, const char *name, const char *value)
{
    return set(&reader_table, options, name, value);
}

static enum q_err
set(const struct table *table, void *options, const char *name, const char *value)
{
    for (size_t index = 0; index < table->count; index++) {
        const struct option *option = &table->options[index];
        if (strcmp(option->name, name) != 0) continue;
        return set_value(option, (char *)options + option->at, value);
    }
    return fail_unknown(table, name);
}

static enum q_err
fail_unknown(const struct table *table, const char *name)
{
    const char *names[NAMES_MAX];
    for (size_t index = 0; index < table->count; index++)
        names[index] = table->options[index].name;
    const char *near = q_text_nearest(name, names, table->count);
    return Q_FAIL(
        Q_INVALID, .what = q_text("a %s has no option \"%s\"", table->of, name),
        .hint = near ? q_text("did you mean \"%s\"?", near) : "docs/options.md has all of them");
}

static enum q_err
set_value(const struct option *option, void *at, const char *value)
{
    uint64_t number = 0;
    uint32_t word = 0;

    switch (option->kind) {
    case TEXT:
        *(const char **)at = value;
        return Q_OK;
    case FLAG:
        Q_TRY(set_word(option, &word, value));
        *(bool *)at = word != 0;
        return Q_OK;
    case NUMBER:
    case SIZE:
        Q_TRY(set_number(option, value, UINT32_MAX, &number));
        *(uint32_t *)at = (uint32_t)number;
        return Q_OK;
    case NUMBER64:
    case SIZE64:
        return set_number(option, value, UINT64_MAX, at);
    case MODE:
        Q_TRY(set_word(option, &word, value));
        *(enum qmq_mode *)at = (enum qmq_mode)word;
        return Q_OK;
    case DUPLICATES:
        Q_TRY(set_word(option, &word, value));
        *(enum qmq_duplicates *)at = (enum qmq_duplicates)word;
        return Q_OK;
    case START:
        Q_TRY(set_word(option, &word, value));
        *(enum qmq_start *)at = (enum qmq_start)word;
        return Q_OK;
    }
    return Q_OK;
}

static enum q_err
set_word(const struct option *option, uint32_t *at, const char *value)
{
    const struct words *known = &words[option->kind];
    for (size_t index = 0; index < known->count; index++) {
        if (strcmp(known->words[index], value) != 0) continue;
        *at = (uint32_t)index;
        return Q_OK;
    }

    char list[Q_FAULT_TEXT_MAX] = "one of";
    for (size_t index = 0; index < known->count; index++) {
        size_t size = strlen(list);
        (void)snprintf(list + size, sizeof(list) - size, " %s", known->words[index]);
    }
    const char *near = q_text_nearest(value, known->words, known->count);
    return Q_FAIL(
        Q_INVALID, .what = q_text("option %s can't be \"%s\"", option->name, value),
        .hint = near ? q_text("did you mean \"%s\"?", near) : list);
}

static enum q_err
set_number(const struct option *option, const char *value, uint64_t max, uint64_t *ret_number)
{
    bool is_size = option->kind == SIZE || option->kind == SIZE64;
    uint64_t number = 0;
    enum q_err err =
        is_size ? q_text_parse_size(value, &number) : q_text_parse_u64(value, 0, max, &number);
    if (err != Q_OK || number > max)
        return Q_FAIL(
            Q_INVALID, .what = q_text("option %s can't be \"%s\"", option->name, value),
            .hint = is_size ? "a size: 4096, 64KiB, 32MiB"
                            : q_text("a number from 0 to %llu", (unsigned long long)max));
    *ret_number = number;
    return Q_OK;
}

int
qmq_connect_string(const char *text, struct qmq_client **ret_client)
{
    return connect_to(text, ret_client);
}

static enum q_err
connect_to(const char *text, struct qmq_client **ret_client)
{
    struct target target;
    struct qmq_client_options options = { .meta = NULL };
    Q_TRY(take_apart(text, &target));
    Q_TRY(read_parameters(&target, &options));

    /* The first one that answers; else what the last one said. */
    enum q_err err = Q_OK;
    char *rest = target.places;
    for (char *place; (place = strsep(&rest, ","));) {
        err = connect_to_one(&target, &options, place, ret_client);
        if (err == Q_OK) return Q_OK;
    }
    return err;
}

static enum q_err
take_apart(const char *text, struct target *target)
{
    static const char hint[] = "qmq://HOST:PORT/?NAME=VALUE&NAME=VALUE";
    int size = snprintf(target->text, sizeof(target->text), "%s", text);
    if (size < 0 || (size_t)size >= sizeof(target->text))
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text("a connection string of %d bytes, at most %d fit", size, TEXT_MAX - 1));

    char *places = strstr(target->text, "://");
    if (!places)
        return Q_FAIL(
            Q_INVALID, .what = q_text("\"%s\" is no connection string", text), .hint = hint);
    *places = '\0';
    target->places = places + strlen("://");

    const char *scheme = target->text;
    target->transport = strcmp(scheme, "qmq") == 0 ? "tcp" : scheme + strlen("qmq+");
    bool is_ours = strcmp(scheme, "qmq") == 0 || strcmp(scheme, "qmq+tcp") == 0 ||
                   strcmp(scheme, "qmq+ipc") == 0 || strcmp(scheme, "qmq+inproc") == 0;
    if (!is_ours)
        return Q_FAIL(
            Q_INVALID, .what = q_text("a connection string can't begin with \"%s://\"", scheme),
            .hint = "qmq://, qmq+ipc://, or qmq+inproc:// inside one process");

    target->parameters = target->places + strcspn(target->places, "?");
    if (*target->parameters) *target->parameters++ = '\0';
    size_t end = strlen(target->places);
    bool is_tcp = strcmp(target->transport, "tcp") == 0;
    if (is_tcp && end > 0 && target->places[end - 1] == '/') target->places[--end] = '\0';
    if (end > 0 && (!is_tcp || !strchr(target->places, '/'))) return Q_OK;
    return Q_FAIL(Q_INVALID, .what = q_text("\"%s\" names no host, or a path", text), .hint = hint);
}

/* Tells of everything that is wrong at once. */
static enum q_err
read_parameters(struct target *target, struct qmq_client_options *options)
{
    struct mistakes mistakes = { .size = 0 };

    char *rest = target->parameters;
    for (char *name; rest && *rest && (name = strsep(&rest, "&"));) {
        char *value = strchr(name, '=');
        if (value) *value++ = '\0';
        enum q_err err = Q_OK;
        const char *known = strcmp(name, "app") == 0 ? "program" : name;
        if (!value || !decode(value))
            err = Q_FAIL(
                Q_INVALID, .what = q_text("\"%s\" has no value, or a broken %%XX in it", name),
                .hint = "NAME=VALUE");
        else if (strcmp(known, "meta") == 0)
            err = Q_FAIL(Q_INVALID, .what = "meta is named by the string itself", .hint = "");
        else
            err = set(&client_table, options, known, value);
        if (err != Q_OK) note_mistake(&mistakes);
    }
    if (mistakes.size == 0) return Q_OK;
    return Q_FAIL(Q_INVALID, .what = mistakes.what, .hint = mistakes.hint);
}

/* "%20" and the like, in place. */
static bool
decode(char *text)
{
    char *to = text;
    for (const char *from = text; *from; from++) {
        if (*from != '%') {
            *to++ = *from;
            continue;
        }
        char digits[] = { from[1], from[1] ? from[2] : '\0', '\0' };
        char *end;
        unsigned long byte = strtoul(digits, &end, 16);
        if (end != digits + 2 || byte == 0) return false;
        *to++ = (char)byte;
        from += 2;
    }
    *to = '\0';
    return true;
}

static void
note_mistake(struct mistakes *mistakes)
{
    const struct q_fault *fault = q_fault_last();
    size_t hint_size = strlen(mistakes->hint);
    const char *between = mistakes->size > 0 ? "; " : "";

    (void)snprintf(
        mistakes->what + mistakes->size, sizeof(mistakes->what) - mistakes->size, "%s%s", between,
        fault->what);
    (void)snprintf(
        mistakes->hint + hint_size, sizeof(mistakes->hint) - hint_size, "%s%s",
        hint_size > 0 ? "; " : "", fault->hint);
    mistakes->size = strlen(mistakes->what);
}

static enum q_err
connect_to_one(
    struct target *target,
    const struct qmq_client_options *options,
    const char *place,
    struct qmq_client **ret_client)
{
    /* Behind the last colon, unless that is inside of [IPv6]. */
    const char *colon = strrchr(place, ':');
    bool has_port = colon && !strchr(colon, ']');
    bool is_tcp = strcmp(target->transport, "tcp") == 0;
    if (is_tcp && !has_port)
        (void)snprintf(target->meta, sizeof(target->meta), "tcp://%s:%d", place, PORT);
    else
        (void)snprintf(target->meta, sizeof(target->meta), "%s://%s", target->transport, place);
    struct qmq_client_options one = *options;
    one.meta = target->meta;
    return qmq_connect(&one, ret_client);
}
