/*
 * grep.c: `qlog grep`: messages of which a part matches.
 */
#include <inttypes.h>
#include <regex.h>
#include <stdio.h>

#include <qbase/text.h>

#include "messages.h"

/* X(NAME, text): parts of a message. */
#define PART_LIST(X)                                                                               \
    X(BODY, "body")                                                                                \
    X(PROPERTY, "property")                                                                        \
    X(KEY, "key")                                                                                  \
    X(TAG, "tag")                                                                                  \
    X(ID, "id")

enum part {
#define PART_ENUM(name, text) PART_##name,
    PART_LIST(PART_ENUM)
#undef PART_ENUM
    PART_COUNT
};

static const char *const part_names[] = {
#define PART_NAME(name, text) [PART_##name] = (text),
    PART_LIST(PART_NAME)
#undef PART_NAME
};

struct pattern {
    bool fixed;
    struct q_bytes text; /* fixed */
    regex_t regex;
};

enum {
    REGEX_TEXT = 128,
    SHOWN_MAX = 200, /* bytes of what matched, in text */
};

struct search {
    struct pattern pattern;
    bool parts[PART_COUNT];
    bool json;
    bool count_only;
    uint64_t limit; /* 0: none */
    uint64_t found;
};

static enum q_err pattern_make(
    struct pattern *pattern, const char *text, bool fixed, bool ignore_case);
static bool parse_parts(const char *text, struct search *search);
static enum q_err search_all(struct search *search, struct messages *messages, bool *ret_damaged);
static bool search_message(
    const struct search *search,
    const struct message *message,
    enum part *ret_part,
    struct q_bytes *ret_where);
static void print_match(
    const struct message *message, enum part part, struct q_bytes where, bool json);

enum tool_exit
grep_run(const struct command *command, int argc, char **argv)
{
    const char *format = "text";
    const char *subject = NULL;
    const char *parts = "body,property,key,id";
    bool fixed = false;
    bool ignore_case = false;
    struct search search = { 0 };
    struct message_options wanted = { .to = UINT64_MAX };
    const struct q_opt options[] = {
        { "subject", 's', Q_OPT_TEXT, &subject, "SUBJECT", "of this subject only", 0, 0 },
        { "fixed", 'F', Q_OPT_FLAG, &fixed, NULL, "PATTERN is a string, not an expression", 0, 0 },
        { "ignore-case", 'i', Q_OPT_FLAG, &ignore_case, NULL, "upper and lower case are the same",
          0, 0 },
        { "in", 0, Q_OPT_TEXT, &parts, "PARTS",
          "where to look: body, property, key, tag, id (all but tag)", 0, 0 },
        { "only-count", 'c', Q_OPT_FLAG, &search.count_only, NULL, "print how many match", 0, 0 },
        MESSAGE_OPTIONS(wanted),
        FORMAT_OPTION(format),
    };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(
            command, options, MESSAGE_OPTION_COUNT + 6, &format, argc, argv, &line, &code))
        return code;
    search.json = line.json;
    if (fixed && ignore_case)
        return usage_error(command, "-F and -i exclude each other; an expression can do both");
    if (!parse_parts(parts, &search))
        return usage_error(
            command, q_text("--in: '%s' is none of body, property, key, tag, id", parts));
    enum q_err err = pattern_make(&search.pattern, line.arguments[0], fixed, ignore_case);
    if (err != Q_OK) return report(err, line.json);

    struct messages messages;
    search.limit = wanted.limit;
    wanted.limit = 0; /* of matches, not of messages that are looked at */
    err = messages_open(&messages, line.directory, subject, &wanted);
    bool damaged = false;
    if (err == Q_OK) err = search_all(&search, &messages, &damaged);
    if (err == Q_OK && search.count_only)
        (void)printf(search.json ? "{\"count\":%" PRIu64 "}\n" : "%" PRIu64 "\n", search.found);
    if (err == Q_OK) print_end(messages.cursor);
    code = search.found > 0 ? TOOL_EXIT_OK : TOOL_EXIT_NOT_FOUND;
    if (damaged) code = TOOL_EXIT_CORRUPT;
    if (err != Q_OK) code = report(err, line.json);
    messages_close(&messages);
    if (!fixed) regfree(&search.pattern.regex);
    return code;
}

static enum q_err
pattern_make(struct pattern *pattern, const char *text, bool fixed, bool ignore_case)
{
    pattern->fixed = fixed;
    pattern->text = q_bytes_from_text(text);
    if (fixed) return Q_OK;
    int rv = regcomp(&pattern->regex, text, REG_EXTENDED | (ignore_case ? REG_ICASE : 0));
    if (rv == 0) return Q_OK;
    char reason[REGEX_TEXT];
    (void)regerror(rv, &pattern->regex, reason, sizeof(reason));
    return Q_FAIL(
        Q_INVALID, .what = q_text("'%.80s' is no regular expression: %s", text, reason),
        .hint = "use -F to look for it as it stands");
}

static bool
parse_parts(const char *text, struct search *search)
{
    while (*text != '\0') {
        size_t size = strcspn(text, ",");
        bool known = false;
        for (unsigned i = 0; i < PART_COUNT; i++) {
            if (strlen(part_names[i]) != size || strncmp(part_names[i], text, size) != 0) continue;
            search->parts[i] = true;
            known = true;
        }
        if (!known) return false;
        text += size;
        if (*text == ',') text++;
    }
    return true;
}

static enum q_err
search_all(struct search *search, struct messages *messages, bool *ret_damaged)
{
    while (search->limit == 0 || search->found < search->limit) {
        struct message message;
        struct qlog_damage damage;
        enum q_err err = messages_next(messages, &message, &damage);
        if (err == Q_END) break;
        if (err == Q_E_CORRUPT) {
            *ret_damaged = true;
            print_damage(search->json, &damage);
            continue;
        }
        if (err != Q_OK) return err;
        enum part part;
        struct q_bytes where;
        if (!search_message(search, &message, &part, &where)) continue;
        search->found++;
        if (!search->count_only) print_match(&message, part, where, search->json);
        if (ferror(stdout)) break; /* main() says it */
    }
    return Q_OK;
}

/* `*ret_where`: the line around the match. */
static bool
matches(const struct pattern *pattern, struct q_bytes bytes, struct q_bytes *ret_where)
{
    const uint8_t *found;
    if (pattern->fixed) {
        found = memmem(bytes.data, bytes.size, pattern->text.data, pattern->text.size);
        if (found == NULL) return false;
    } else {
        /* Bodies are bytes: they may hold zeros, and no zero ends them. */
        regmatch_t match = { .rm_so = 0, .rm_eo = (regoff_t)bytes.size };
        const char *text = bytes.size == 0 ? "" : (const char *)bytes.data;
        if (regexec(&pattern->regex, text, 1, &match, REG_STARTEND) != 0) return false;
        found = bytes.data + match.rm_so;
    }
    const uint8_t *end = bytes.data + bytes.size;
    const uint8_t *from = found;
    while (from > bytes.data && from[-1] != '\n')
        from--;
    const uint8_t *to = found;
    while (to < end && *to != '\n')
        to++;
    *ret_where = q_bytes_from(from, (size_t)(to - from));
    return true;
}

static bool
search_message(
    const struct search *search,
    const struct message *message,
    enum part *ret_part,
    struct q_bytes *ret_where)
{
    const struct pattern *pattern = &search->pattern;
    static char id[QBATCH_ID_TEXT_SIZE];
    *ret_part = PART_ID;
    struct q_bytes id_text = q_bytes_from_text(qbatch_id_format(&message->view.id, id));
    if (search->parts[PART_ID] && matches(pattern, id_text, ret_where)) return true;
    *ret_part = PART_TAG;
    for (uint32_t i = 0; search->parts[PART_TAG] && i < message->batch->tag_count; i++)
        if ((message->view.entry.tags >> i & 1) &&
            matches(pattern, qbatch_tag_at(message->batch, i), ret_where))
            return true;
    struct q_bytes at = message->view.properties;
    struct q_bytes name;
    struct q_bytes value;
    while (qbatch_property_next(&at, &name, &value) == Q_OK) {
        bool key = q_bytes_equal(name, q_bytes_from_text(QBATCH_PROPERTY_KEY)) ||
                   q_bytes_equal(name, q_bytes_from_text(QBATCH_PROPERTY_ORDER_KEY));
        *ret_part = key ? PART_KEY : PART_PROPERTY;
        if (!search->parts[*ret_part]) continue;
        if (matches(pattern, value, ret_where)) return true;
        if (!key && matches(pattern, name, ret_where)) return true;
    }
    *ret_part = PART_BODY;
    return search->parts[PART_BODY] && matches(pattern, message->view.body, ret_where);
}

static void
print_match(const struct message *message, enum part part, struct q_bytes where, bool json)
{
    if (json) {
        message_print_json(message, true);
        (void)putchar('\n');
        return;
    }
    char id[QBATCH_ID_TEXT_SIZE];
    (void)printf("%" PRIu64 ":%u ", message->frame.value, message->record);
    print_name(stdout, message->subject);
    (void)printf(
        "@%" PRIu64 " %s %s: ", message->sequence, qbatch_id_format(&message->view.id, id),
        part_names[part]);
    print_name(stdout, q_bytes_from(where.data, q_min_u64(where.size, SHOWN_MAX)));
    (void)printf("%s\n", where.size > SHOWN_MAX ? "…" : "");
}
