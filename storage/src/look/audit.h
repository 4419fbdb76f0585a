/*
 * look/audit.h: what the two logs of a store say together, for tools: subjects, groups, and what
 * can't be true of both.
 *
 * The message log is told first, then the action log; groups are the same state machine that a
 * store runs (consume/group.h). Nothing is read or written here: records come from whoever reads
 * them. Records of one log are told in its order.
 *
 * What is found (a contradiction is not damage: every frame may be right):
 *
 *   - a sequence is given twice, or is missing without a reason: sequences are dense but where
 *     damage or an unclean stop lies between
 *   - a batch of a subject that its segment does not name; an id that stands for two names
 *   - an action of a group or consumer that was never made, on messages that never were, on pull
 *     sequences that were never handed out; a cursor that goes back
 *   - at the end: a message that is in two hands, or in one above the cursor
 *
 * Thread: one at a time. Memory: copies of names; one block per subject and group; freed by _fini.
 */
#ifndef QL_LOOK_AUDIT_H
#define QL_LOOK_AUDIT_H

#include <qbase/map.h>
#include <qlog/cursor.h>

#include "consume/group.h"

/* What the audit wants to know of a record of the message log. */
struct ql_digest {
    unsigned kind; /* QL_RECORD_BATCH or QL_RECORD_SUBJECT */
    uint32_t subject_id;
    uint64_t position;
    uint64_t segment; /* base of the one that holds it; 0: not known */
    uint64_t generation;
    uint64_t sequence; /* SUBJECT: its next one */
    uint32_t count;
    uint32_t stored_bytes; /* payload and padding */
    uint32_t envelope_bytes;
    uint64_t store_ms;
    struct q_bytes name; /* SUBJECT: in the record */
};

struct ql_audit_subject {
    uint32_t id;
    uint8_t name_size; /* 0: it has none, or it was lost */
    char *name;
    uint64_t named_at;       /* newest SUBJECT record in the message log */
    uint64_t first_sequence; /* of the messages that are there */
    uint64_t next_sequence;
    uint64_t generation; /* of the newest batch */
    uint64_t messages;
    uint64_t batches;
    uint64_t stored_bytes; /* of payloads */
    uint64_t envelope_bytes;
    uint64_t first_ms; /* store time of the first batch, */
    uint64_t last_ms;  /* and of the last; from an index file: its second */
};

struct ql_audit_group {
    struct ql_group *group; /* its `subject` is NULL */
    uint32_t subject_id;
};

struct ql_audit {
    /* Set by the caller, after ql_audit_init(). */
    bool live;    /* what is behind the end that was read may be there */
    bool unclean; /* the last stop was: actions of `generation` may speak of what power loss took */
    uint64_t generation;
    uint64_t action_first; /* where the action log begins: above 0, groups may be stated later */
    void *context;
    /* Each finding, in one line. May be NULL. */
    void (*on_finding)(void *context, const char *log, uint64_t position, const char *text);

    uint64_t findings;
    struct ql_audit_subject **subjects; /* by id; NULL: never met */
    uint32_t subject_count;
    struct ql_audit_group *groups; /* by id; `group` NULL: never met */
    uint32_t group_count;

    /* Private. */
    bool damaged; /* something of the message log, or of the action log, is missing */
    uint32_t subject_capacity;
    uint32_t group_capacity;
    uint64_t damage_seen; /* position behind the last damage of the message log */
    uint64_t unstated;    /* actions of groups that were not stated yet, and where the first is */
    uint64_t unstated_at;
    uint32_t unstated_group;
};

void ql_audit_init(struct ql_audit *audit);
void ql_audit_fini(struct ql_audit *audit);

/* Q_OK, Q_NOT_FOUND (the audit does not care for it), Q_E_CORRUPT (does not decode). */
Q_MUST_CHECK enum q_err ql_digest_of(
    const struct qlog_record *record, uint64_t segment, struct ql_digest *ret_digest);
/* Q_OK, Q_E_NOMEM; as all of the following. */
Q_MUST_CHECK enum q_err ql_audit_message(struct ql_audit *audit, const struct ql_digest *digest);
Q_MUST_CHECK enum q_err ql_audit_action(struct ql_audit *audit, const struct qlog_record *record);
/* Records are missing here: what follows may not fit what was before. */
void ql_audit_damage(struct ql_audit *audit, bool action_log, uint64_t to);
/* Both logs were told: messages that are no more leave the groups' hands, as at a store's start. */
void ql_audit_end(struct ql_audit *audit);

/* What an index file says of a subject, in place of its batches. Q_OK, Q_E_NOMEM. */
struct ql_audit_batches {
    uint32_t subject_id;
    uint64_t first_sequence;
    uint64_t next_sequence;
    uint64_t messages;
    uint64_t batches;
    uint64_t stored_bytes;
    uint64_t envelope_bytes;
    uint64_t first_ms;
    uint64_t last_ms;
    uint64_t generation;
};
Q_MUST_CHECK enum q_err ql_audit_batches(
    struct ql_audit *audit, const struct ql_audit_batches *batches);

/* What was read, and how. */
struct ql_audit_source {
    uint64_t damages;
    uint32_t segments;  /* of the message log */
    uint32_t unindexed; /* of them, that were read for want of a good index file */
    uint64_t log_bytes; /* of the message log, from its first frame to its end */
};
/*
 * What both logs of a directory hold (look/audit_read.c): the message log as its index files tell it, and
 * what they don't cover as it is read; the action log. `audit` is initialised; its `live`, `generation`
 * and so on are set here. Contradictions within the message log, and damage in what was not read, are not
 * found. Q_OK, or as qlog_cursor_open() and _next(); damage is only counted.
 */
Q_MUST_CHECK enum q_err ql_audit_read(
    struct ql_audit *audit, const char *directory, struct ql_audit_source *ret_source);

/* NULL when there is none. */
struct ql_audit_subject *ql_audit_find(const struct ql_audit *audit, struct q_bytes name);
static inline struct q_bytes
ql_audit_name(const struct ql_audit_subject *subject)
{
    return q_bytes_from(subject->name, subject->name_size);
}

#endif /* QL_LOOK_AUDIT_H */
