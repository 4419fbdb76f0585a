/*
 * names.h: what the numbers in records stand for: subjects, groups, consumers.
 *
 * A log names each of them in a record before its first use, so one forward pass knows them all.
 *
 * Memory: copies of the names, freed by names_fini().
 */
#ifndef QLOG_TOOL_NAMES_H
#define QLOG_TOOL_NAMES_H

#include <qbase/bytes.h>
#include <qbase/map.h>
#include <qlog/cursor.h>

enum name_kind {
    NAME_SUBJECT,
    NAME_GROUP,
    NAME_GROUP_SUBJECT, /* by the group's number */
    NAME_CONSUMER,      /* by the group's and its own */
};

struct name_key {
    enum name_kind kind;
    uint32_t id;
    uint32_t consumer;
};

/* A zeroed one is valid and empty. */
struct names {
    struct q_map map;
    struct name_entry *entries;
    uint32_t count;
    uint32_t capacity;
};

void names_fini(struct names *names);
/* Learn from a record, if it names something. Q_OK, Q_E_CORRUPT (does not decode), Q_E_NOMEM. */
Q_MUST_CHECK enum q_err names_learn(struct names *names, const struct qlog_record *record);
/*
 * Learn all that a start would: from the action log, from where it reads on. Damage is passed over.
 * Q_OK, or as qlog_cursor_open() and _next().
 */
Q_MUST_CHECK enum q_err names_learn_all(struct names *names, const char *directory, uint64_t from);
/* Q_OK or Q_NOT_FOUND. */
Q_MUST_CHECK enum q_err names_find_subject(
    const struct names *names, struct q_bytes name, uint32_t *ret_id);
/* The name, or "#12" in a buffer for use within one statement. */
struct q_bytes names_of(const struct names *names, struct name_key key);

#endif /* QLOG_TOOL_NAMES_H */
