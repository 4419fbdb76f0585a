/*
 * messages.h: the messages of a store, one after another in the order of the log, with a filter.
 *
 * A batch's payload is checked before anything of it is given. What can't be given is damage: it is
 * told as such, and reading goes on behind it. What a running store drops meanwhile is passed over.
 *
 * An id is looked for by the time that is in it, from a minute before, and then in what was stored before
 * that: clocks of producers and of a broker may differ.
 *
 * Where a subject, a key, a time or an id is asked for, index files tell what has to be read; what they don't cover is
 * read all the same. Damage that lies elsewhere is not met then.
 *
 * Thread: one. Memory: what a message points to is valid until the next call.
 */
#ifndef QLOG_TOOL_MESSAGES_H
#define QLOG_TOOL_MESSAGES_H

#include <qbase/opts.h>
#include <qbatch/batch.h>

#include "command.h"
#include "look/places.h"
#include "names.h"

struct message {
    struct q_bytes subject;
    uint64_t sequence;
    uint64_t store_ms;
    qlog_position frame;
    uint32_t record; /* index of the batch among the records of its frame */
    uint64_t generation;
    const struct qbatch *batch;
    struct qbatch_view view; /* `index`: among the messages of its batch */
};

/* As it stands on a command line. Zeroed but for `to`, it takes everything. */
struct message_options {
    uint64_t from;     /* sequences, inclusive */
    uint64_t to;       /* UINT64_MAX: no end */
    const char *since; /* when.h; store time */
    const char *until;
    struct q_opt_list tags; /* any of them */
    const char *key;
    const char *id;
    uint64_t limit; /* messages; 0: all */
};

/* clang-format off */
#define MESSAGE_OPTIONS(o)                                                                         \
    { "from", 0, Q_OPT_NUMBER, &(o).from, "SEQUENCE", "first sequence", 0, 0 },                    \
    { "to", 0, Q_OPT_NUMBER, &(o).to, "SEQUENCE", "last sequence", 0, 0 },                         \
    { "since", 0, Q_OPT_TEXT, &(o).since, "TIME", "stored at this time or later", 0, 0 },          \
    { "until", 0, Q_OPT_TEXT, &(o).until, "TIME", "stored before this time", 0, 0 },               \
    { "tag", 't', Q_OPT_LIST, &(o).tags, "TAG", "with this tag, or another of those given", 0, 0 },\
    { "key", 0, Q_OPT_TEXT, &(o).key, "KEY", "with this key", 0, 0 },                              \
    { "id", 0, Q_OPT_TEXT, &(o).id, "ID", "with this id", 0, 0 },                                  \
    { "count", 'n', Q_OPT_NUMBER, &(o).limit, "N", "stop after this many messages (all)", 1, 0 }
/* clang-format on */
enum {
    MESSAGE_OPTION_COUNT = 8
};

#define MESSAGES_HELP "TIME is 2026-01-11T04:15:02Z, ms since 1970, or -5m for five minutes ago."

struct messages {
    const char *directory;
    struct qlog_cursor *cursor;
    struct names names;
    const char *subject; /* NULL: all */
    struct message_options options;
    uint64_t since_ms;
    uint64_t until_ms;
    bool by_id;
    struct qbatch_id id;
    uint64_t id_since_ms; /* above since_ms: what lies before is looked at later */
    struct qbatch_filter filter;
    uint64_t key_hash;
    uint64_t given;
    bool subject_met; /* its name was found */

    /* Private: what is to be read, and which of it is next. */
    bool indexed; /* else all of it */
    struct ql_places places;
    uint32_t place;

    /* Private: the batch that is being given. */
    struct qlog_record record;
    struct qbatch batch;
    struct qbatch_mask mask;
    struct qbatch_walk walk;
    bool in_batch;
    uint8_t *scratch;
    size_t scratch_size;
};

/* Q_OK, Q_INVALID (an option), or as qlog_cursor_open(). `messages` is closed unless Q_OK. */
Q_MUST_CHECK enum q_err messages_open(
    struct messages *messages,
    const char *directory,
    const char *subject,
    const struct message_options *options);
void messages_close(struct messages *messages);
/* Q_OK; Q_END, also after options->limit; Q_E_CORRUPT: `*ret_damage`, go on; failures. */
Q_MUST_CHECK enum q_err messages_next(
    struct messages *messages, struct message *ret_message, struct qlog_damage *ret_damage);

/* One JSON object, without the line's end. */
void message_print_json(const struct message *message, bool body);

#endif /* QLOG_TOOL_MESSAGES_H */
