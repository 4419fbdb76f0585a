/*
 * log/index.h: subjects, and where their messages are.
 *
 * Derived from the message log: applying its records in order, live or in recovery, gives the same
 * index. One entry per batch, in a file of its segment (index_files.h), or in memory (entries.h) as
 * long as there is no file that has it: always the newest ones.
 *
 * Invariants: entries of a subject are sorted by first sequence and do not overlap; next_sequence is
 * behind the last of them; all in files lie before all in memory.
 *
 * Thread: the store's. Blocking: look-ups in files read what is mapped; one that meets damage at a
 * start reads a whole segment. Memory: at most 200 bytes per subject and its name; entries.h.
 */
#ifndef QL_LOG_INDEX_H
#define QL_LOG_INDEX_H

#include <qbase/bytes.h>
#include <qbase/list.h>
#include <qbase/map.h>
#include <qlog/store.h>

#include "log/index_files.h"

struct ql_append;
struct ql_subject_record;

struct ql_subject {
    uint32_t id;
    enum qlog_mode mode; /* DEFAULT: the store's */
    uint64_t next_sequence;
    uint64_t last; /* its last entry's number; it may be dropped since */
    uint64_t hint; /* base of the segment where something of it was found */

    /* Its last SUBJECT record in the action log: where it is, and what it says. */
    uint64_t stated_at;
    uint64_t stated_next;

    /* Which segment names it, and which append is about to write that SUBJECT record. */
    uint64_t named_in;
    const struct ql_append *namer;

    /* Groups with parked pulls; struct ql_group.parked_link. */
    struct q_list parked_groups;
    /* In the store's list of subjects whose parked groups are to be looked at. */
    struct q_list stirred_link;

    /* Groups of this subject; struct ql_group.subject_link. */
    struct q_list groups;

    uint32_t namer_batch;
    bool unnamed; /* its name is not known; `name` is a stand-in */
    uint8_t name_size;
    uint8_t room; /* of `text` */
    char *name;   /* `text`, or memory of its own when that is too short for it */
    char text[];  /* there may be a million subjects: one piece of memory for each */
};

enum {
    QL_SUBJECT_IDS_MAX = 100 * 1000 * 1000, /* a record with one above is damaged */
};

struct ql_index {
    struct ql_subject **subjects; /* by id */
    uint32_t count;
    uint32_t capacity;
    uint32_t subjects_max; /* new ones; what is stored is taken, whatever the limit was then */
    uint32_t entries_max;  /* batches, and keys, that no file has yet */
    struct q_map by_name;

    struct ql_entries entries;
    uint32_t promised; /* entries of publishes that are queued, and their keys: room is there */
    uint64_t promised_keys;

    struct ql_index_files files;
    struct ql_index_header
        head;            /* of the segment that is being written; base UINT64_MAX: none yet */
    uint64_t cut_end;    /* entries up to here are cut, or in files */
    uint64_t cut_bytes;  /* of log, then there is a cut; */
    uint64_t cut_number; /* … or a quarter of entries_max, of batches or of keys, from here on */
    uint64_t cut_keys;
    uint64_t recovered_end; /* of the log, and the generation of the last frame below */
    uint64_t recovered_generation;
};

/* Its limits are the caller's to set. */
void ql_index_init(struct ql_index *index);
void ql_index_fini(struct ql_index *index);

/* Whose index it is. `threaded`: as index_worker.h tells. */
void ql_index_attach(
    struct ql_index *index, struct ql_log *log, const struct ql_log *actions, bool threaded);
/* Nothing of it is under way in the log's io any more. Before the log goes. */
void ql_index_detach(struct ql_index *index);
/* What recovery of a segment begins with: the entries from here on are in `header`'s segment. */
void ql_index_begin_segment(
    struct ql_index *index, const struct ql_index_header *header, uint64_t from);
/* Subjects and sequences that a file tells. Q_OK, Q_E_CORRUPT, Q_E_NOMEM, failures to map it. */
Q_MUST_CHECK enum q_err ql_index_learn(struct ql_index *index, struct ql_index_file *file);
/* The two parts of a turn: before frames are written, and after. */
void ql_index_cut(struct ql_index *index);
/* True: what could not be told for a while (Q_E_NOT_NOW) can be, or fails. */
bool ql_index_make(struct ql_index *index, uint64_t now_ns);

/* Q_OK or Q_NOT_FOUND. */
Q_MUST_CHECK enum q_err ql_index_find(
    const struct ql_index *index, struct q_bytes name, struct ql_subject **ret_subject);
/* NULL when there is no such id. */
struct ql_subject *ql_index_get(const struct ql_index *index, uint32_t id);
/*
 * The subject with this name, made when it is not there yet. Q_OK (`*ret_created`), Q_TOO_BIG (the
 * limit of subjects), Q_INVALID (the name's length), Q_E_NOMEM.
 */
Q_MUST_CHECK enum q_err ql_index_need(
    struct ql_index *index,
    struct q_bytes name,
    struct ql_subject **ret_subject,
    bool *ret_created);
/*
 * A subject whose name was lost to damage: named "%unnamed-ID" until a SUBJECT record tells. Q_OK,
 * Q_E_CORRUPT (the id is above the limit), Q_E_NOMEM.
 */
Q_MUST_CHECK enum q_err ql_index_need_unnamed(
    struct ql_index *index, uint32_t id, struct ql_subject **ret_subject);
/* Apply a SUBJECT record. Q_OK, Q_E_CORRUPT (id and name contradict what is known), Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_index_apply_subject(
    struct ql_index *index, const struct ql_subject_record *record);
/* Whether memory may take more. Q_OK; Q_BUSY: index files can't be written, and too much waits. */
Q_MUST_CHECK enum q_err ql_index_admit(const struct ql_index *index);
/* Room for one more entry, and for this envelope's keys, kept until it is added or withdrawn: adding it
 * can't fail. */
Q_MUST_CHECK enum q_err ql_index_promise(struct ql_index *index, const uint8_t *envelope);
void ql_index_withdraw(struct ql_index *index, const uint8_t *envelope);
/* Append an entry that was promised; its first sequence is at or above next_sequence. */
void ql_index_add(
    struct ql_index *index,
    struct ql_subject *subject,
    const struct ql_entry *entry,
    const uint8_t *envelope,
    uint64_t wall_ms);
/*
 * The entry that holds `sequence`, or the first behind it. Q_OK, Q_NOT_FOUND: there is none;
 * Q_E_NOT_NOW: a damaged index file is being made again; failures to do so. The gap between entries is
 * what rot took, or power loss.
 */
Q_MUST_CHECK enum q_err ql_index_entry(
    struct ql_index *index,
    struct ql_subject *subject,
    uint64_t sequence,
    struct ql_entry *ret_entry);
/*
 * The first batch of the subject at or behind `*sequence` that has a message whose key has this hash.
 * --- index_key.c
 *
 * Q_OK: here it is; it may begin below `*sequence`. Q_NOT_FOUND: there is none below `*sequence`, which
 * was moved on: ask again from there, unless that is the subject's end. One call looks at a few files
 * at most. Failures as above.
 */
Q_MUST_CHECK enum q_err ql_index_key(
    struct ql_index *index,
    struct ql_subject *subject,
    uint64_t hash,
    uint64_t *sequence,
    struct ql_entry *ret_entry);
/*
 * Behind the last sequence whose frame ends at or below `mark`, and not behind the first one above.
 * What is in files is below every mark.
 */
uint64_t ql_index_visible_end(
    const struct ql_index *index, const struct ql_subject *subject, uint64_t mark);
/*
 * The position of a frame from which on everything that was stored at or after `wall_ms` lies. An id
 * is found by its time. Q_OK; failures.
 */
Q_MUST_CHECK enum q_err ql_index_time(
    struct ql_index *index, uint64_t wall_ms, uint64_t *ret_position);
/* What a file failed with is its own fault, and not the want of memory or of something else. */
bool ql_index_is_damaged(enum q_err err);
/* Segments below `first` are gone. */
void ql_index_drop(struct ql_index *index, uint64_t first);

#endif /* QL_LOG_INDEX_H */
