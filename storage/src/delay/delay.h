/*
 * delay/delay.h: the whole delay store: what its parts share. docs/delay.md tells how they fit.
 *
 * A turn (qlog_delay_turn):
 *
 *   take       all requests of the mailbox, and what senders have given back
 *   reap       what completed; marks move; what reached its mark is finished (`done` runs)
 *   clock      the effective clock moves on
 *   intake     publishes that came early, for too long
 *   arrive     batches that are durable since enter the schedule
 *   dispatch   what is due is put into requests; those that are recorded are handed over
 *   space      statements, and segments that can go
 *   filing     runs of sealed segments become files
 *   write      frames, spares, superblock are queued
 *
 * Life of a message (who moves it; what the next start does):
 *
 *   from -> to              by                                         a start finds it
 *   –        -> ACCEPTED    accept.c: its frame is being written       not at all, or ARRIVED
 *   ACCEPTED -> ARRIVED     schedule.c: its frame is durable           ARRIVED
 *   ARRIVED  -> NAMED       dispatch.c: it is in a DISPATCH record     ARRIVED, or OPEN
 *   NAMED    -> OPEN        that record is durable: it is handed over  OPEN: handed over again
 *   OPEN     -> DONE        the sender: stored                         OPEN, or DONE
 *   OPEN     -> ARRIVED     the sender: refused; alone it goes aside   OPEN, or ARRIVED
 *   ARRIVED  -> DONE        query.c: cancelled, or moved (REPLACES)    as its answer said
 *   DONE     -> gone        space.c: its segment is dropped             gone
 *
 * Invariants:
 *   (1) a mark is set of exactly the messages that are NAMED, OPEN or DONE
 *   (2) what is handed over is in a durable DISPATCH record, and stays byte for byte what it was
 *   (3) no segment goes with a message of it ARRIVED or OPEN, unless that was written again; nor
 *       before all marks of it are durable in the dispatch log
 *
 * Thread: the store's.
 */
#ifndef QL_DELAY_DELAY_H
#define QL_DELAY_DELAY_H

#include <stdatomic.h>

#include <qbase/heap.h>
#include <qbase/mailbox.h>
#include <qbase/map.h>
#include <qlog/delay.h>

#include "delay/clock.h"
#include "delay/filing.h"
#include "delay/intake.h"
#include "delay/marks.h"
#include "format/delay_record.h"
#include "format/index_file.h"
#include "format/record.h"
#include "segment/home.h"
#include "segment/scan.h"

enum {
    QL_LOG_DELAY = 0,
    QL_LOG_DISPATCH = 1
};

enum {
    QL_DELAY_SUBJECTS_MAX = 1000 * 1000,
    QL_ASIDE_MAX = 65536,
    QL_CARRY_FILES = 1, /* of the delay log, kept for what makes room */
};

/*
 * The batches of one segment: run.c. In memory in the order of the log, with a heap by due time over
 * those that may wait; in a file, once the segment is sealed and that is written, sorted.
 */
struct ql_run {
    uint64_t base; /* of the segment */
    uint64_t end;  /* where it ends; 0: it is being written */
    uint32_t count;
    uint64_t bytes;
    uint64_t messages;
    uint64_t first_sequence;
    uint64_t next_sequence;
    uint64_t generation; /* of the last frame with a batch, */
    uint64_t wall_ms;    /* and when that was written */
    bool carries;        /* it has batches that were written again: sequences are in no order */
    bool rotten;         /* its segment is damaged: there is to be no file */
    uint32_t gone;       /* all below are done */

    /* In memory. */
    struct ql_delay_entry *entries;
    uint32_t capacity;
    uint32_t arrived; /* entries below are durable */
    uint32_t *heap;   /* of entries that may be waiting */
    uint32_t heap_count;
    uint64_t *replaced; /* by REPLACES records of the segment */
    uint32_t replaced_count;
    uint32_t replaced_capacity;

    /* In a file; NULL: it is in memory. */
    struct ql_run_file *file;
    uint32_t next; /* none below waits to be offered */

    const uint8_t *map; /* of the segment's file, once something of it is read */
    uint64_t map_size;
    struct q_heap_node node; /* by the due time of the first that waits */
};

/* Batches on their way into the delay log: a publish, one message that gets another time, or a batch
 * that is written again. */
struct ql_put {
    struct ql_append append;
    struct qlog_delay *delay;
    uint8_t *envelopes; /* the publish's, or `own` */
    uint32_t envelopes_size;
    const uint8_t *payloads;
    uint32_t payloads_size;
    uint32_t batch_count;
    uint32_t message_count;
    struct qlog_delay_publish *publish;       /* NULL: it is none */
    struct qlog_delay_reschedule *reschedule; /* the same */
    uint64_t replaces;                        /* of a reschedule */
    uint8_t *own;
    uint32_t own_capacity;
    struct ql_put *next;
};

struct ql_delay_subject {
    uint32_t id;
    uint64_t named_in;             /* incarnation of the segment that names it */
    const struct ql_append *namer; /* who is going to name it in the next frame, */
    uint32_t namer_batch;          /* and with which batch */
    uint64_t away_turn;            /* nobody takes its messages in this turn */
    uint64_t filed_in;             /* while a run is filed: it has this subject */
    uint32_t size;
    char name[];
};

/* A broker group, and who this store is to it. */
struct ql_target {
    uint32_t id;
    char name[64];
    uint8_t producer_id[16];
    uint64_t next_request;
    struct q_list opens; /* struct ql_open, by request */
    uint32_t open_count;
    uint32_t resend_count; /* of a start: nothing new before those are stored */
    struct ql_open *forming;
    uint32_t alone; /* so many requests of one message each: one with several was refused */
    bool renewing;  /* the group does not know this store: nothing is sent until all is back */
    bool failing;
    bool has_skipped;
    uint64_t full_since_ns; /* 0: it is not full */
    uint64_t retry_ns;
    uint64_t backoff_ns;
};

enum ql_open_state {
    QL_OPEN_FORMING,
    QL_OPEN_RECORDING, /* the DISPATCH record is on its way to the disk */
    QL_OPEN_READY,
    QL_OPEN_SENT,
    QL_OPEN_STORED, /* DISPATCHED could not be appended yet */
};

struct ql_open {
    struct qlog_delay_send send;
    struct ql_append append;
    struct qlog_delay *delay;
    struct ql_target *target;
    struct q_list link; /* in target->opens, or the free ones */
    enum ql_open_state state;
    bool resend; /* of a start */
    bool alone;  /* it has one message */
    uint64_t request;
    struct ql_dispatch_item *items;
    uint32_t item_count;
    uint32_t message_count;
    uint64_t bytes;
    uint64_t due_min_ms;
    uint64_t due_max_ms;
    bool built;
    uint32_t read_tries;
    uint8_t *envelopes;
    uint32_t envelopes_capacity;
    uint8_t *payloads;
    uint32_t payloads_capacity;
    struct q_bytes *subjects;
};

/* A message that waits and is not offered: a broker group refused it for good. */
struct ql_aside {
    uint64_t sequence;
    uint32_t target_id;
    enum q_err code;
};

/* A record of the dispatch log under way, but for DISPATCH. */
struct ql_note {
    struct ql_append append;
    struct qlog_delay *delay;
    struct qlog_delay_request *request; /* answered when it is durable; NULL: nobody waits */
    uint64_t sequence;                  /* WITHDRAWN: unmarked when it can't be appended */
    bool withdraws;
    bool of_round; /* a round is said anew as a whole */
    uint8_t *record;
    uint32_t size;
    uint32_t capacity;
    struct ql_note *next;
};

enum ql_space_state {
    QL_SPACE_NONE,
    QL_SPACE_CARRY, /* what waits in the first run is written again */
    QL_SPACE_MARKS, /* marks of the first run become durable */
    QL_SPACE_TRIM,  /* the superblock is told, then the segment goes */
};

struct qlog_delay {
    /* Any thread. */
    struct q_mailbox mailbox;
    struct q_mailbox sent;
    atomic_bool stopping;
    atomic_bool woken;

    /* The store's thread from here on. */
    struct ql_home *home;
    struct ql_log *log; /* home's: messages */
    struct ql_log *dispatch;
    const struct q_clock *clock;
    uint64_t now_ns;
    uint64_t turn;
    struct ql_delay_clock eff;
    struct qlog_delay_options options; /* defaults filled in */

    /* Subjects by id; names in the log. */
    struct ql_delay_subject **subjects;
    uint32_t subject_count;
    uint32_t subject_capacity;
    struct q_map subjects_by_name;

    uint64_t next_sequence;
    uint64_t promised_messages; /* sequences that fill is going to give */
    uint32_t promised_batches;
    struct ql_marks marks;
    struct ql_intake intake;

    /* schedule.c */
    struct ql_run **runs; /* by base */
    uint32_t run_count;
    uint32_t run_capacity;
    struct ql_run *spare_run;
    struct q_heap runs_due;
    uint32_t entry_count;
    uint64_t log_bytes; /* of all entries */
    uint64_t live_bytes;
    uint64_t blind_ns; /* of some runs it is not known what is due next: when to look; 0: of none */
    uint32_t filed_below; /* runs with a lower number are in files */
    struct ql_filing filing;
    uint64_t skipped_from; /* due time of the first that was passed over; UINT64_MAX: none */
    uint64_t rewound_ns;
    bool stirred; /* what was passed over may be taken now */

    /* Messages that are being moved: not to be offered. */
    struct qlog_delay_reschedule *moving;

    /* dispatch.c */
    struct ql_target **targets; /* by id */
    uint32_t target_count;
    struct q_list free_opens;
    struct ql_aside *asides; /* by sequence */
    uint32_t aside_count;
    uint32_t aside_capacity;
    uint8_t *scratch; /* a batch as stored, */
    size_t scratch_size;
    uint8_t *content; /* and its content, when that is compressed */
    size_t content_size;
    bool again; /* the last turn left something to do */

    struct ql_note *free_notes;
    struct ql_note *refused_notes; /* again, in this order, when space_retry_ns has come */
    struct ql_note **refused_last;
    uint32_t withdrawals; /* notes under way that mark a message */
    struct ql_put *free_puts;

    /* space.c */
    enum ql_space_state space;
    uint32_t carry_next;
    uint32_t carry_pending;
    bool carry_failed;
    bool tight; /* the disk is full: only what makes room is written to the delay log */
    uint64_t tight_until_ns;
    uint32_t stuck_count; /* of messages of a damaged batch of the first run; 0: there is none */
    uint64_t stuck;       /* the first of them */
    uint64_t space_retry_ns;
    uint64_t marks_end;
    struct ql_home_trim trim;
    uint64_t round_from;
    uint64_t round_end; /* 0: not known yet */
    uint64_t round_ended_at;
    uint64_t round_size;
    bool round_busy;
    bool round_saying;
    bool round_said;
    bool round_wanted;
    bool round_failed;

    bool damaged;
    uint64_t rot_from; /* what a start found damaged of the delay log lies between here */
    uint64_t rot_to;   /* and here */
    bool before_round; /* a start has not come to the round from which it reads */
    struct qlog_delay_counters counters;
};

/* --- accept.c --- */
void ql_delay_publish_start(struct qlog_delay *delay, struct qlog_delay_publish *publish);
/* Into the log's queue. Q_OK, or an answer: it won't be in the log. */
Q_MUST_CHECK enum q_err ql_delay_publish_append(
    struct qlog_delay *delay, struct qlog_delay_publish *publish);
/* Append one message again under a new due time, in the place of `entry`'s message. */
Q_MUST_CHECK enum q_err ql_delay_move(
    struct qlog_delay *delay,
    struct qlog_delay_reschedule *reschedule,
    const struct ql_run *run,
    const struct ql_delay_entry *entry,
    uint64_t sequence);
/* Append a batch again as it is; ql_space_carried() is called when that is durable. */
Q_MUST_CHECK enum q_err ql_delay_carry(
    struct qlog_delay *delay, const struct ql_run *run, const struct ql_delay_entry *entry);
void ql_puts_free(struct qlog_delay *delay);
/* The subject of an id; NULL: not known. */
struct ql_delay_subject *ql_delay_subject(const struct qlog_delay *delay, uint32_t id);
/* The id of a name; a new one when it is not known. Q_OK, Q_E_NOMEM, Q_TOO_BIG (too many). */
Q_MUST_CHECK enum q_err ql_delay_need_subject(
    struct qlog_delay *delay, struct q_bytes name, uint32_t *ret_id);
/* Make it known. Q_OK, Q_E_NOMEM, Q_E_CORRUPT (another name has the id). */
Q_MUST_CHECK enum q_err ql_delay_subject_add(
    struct qlog_delay *delay, uint32_t id, struct q_bytes name);
void ql_delay_subjects_free(struct qlog_delay *delay);

/* --- schedule.c --- */
/* So many batches more are within the limit. Q_OK, Q_STORAGE_FULL. */
Q_MUST_CHECK enum q_err ql_schedule_check(const struct qlog_delay *delay, uint32_t batches);
/* Room for so many batches and messages more. Q_OK, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_schedule_promise(
    struct qlog_delay *delay, uint32_t batches, uint64_t messages);
void ql_schedule_withdraw(struct qlog_delay *delay, uint32_t batches, uint64_t messages);
/* Keeps a promise. `base`: of the segment; not below that of the entry before. */
void ql_schedule_add(
    struct qlog_delay *delay,
    uint64_t base,
    const struct ql_delay_entry *entry,
    uint64_t generation,
    uint64_t wall_ms);
/* A REPLACES record is in that segment. */
void ql_schedule_replaces(struct qlog_delay *delay, uint64_t base, uint64_t sequence);
/* A start: the batches of a segment that is not read. The file is the schedule's when it is Q_OK. */
Q_MUST_CHECK enum q_err ql_schedule_add_file(struct qlog_delay *delay, struct ql_run_file *file);
/* What is durable enters the schedule. */
void ql_schedule_arrive(struct qlog_delay *delay);
/* The batch that is due next and may have messages that wait; false: there is none. */
bool ql_schedule_peek(
    struct qlog_delay *delay, struct ql_run **ret_run, const struct ql_delay_entry **ret_entry);
/* Pass over it. */
void ql_schedule_pass(struct qlog_delay *delay, struct ql_run *run);
/* Everything due from `due_ms` on is offered again, unless it is marked. */
void ql_schedule_rewind(struct qlog_delay *delay, uint64_t due_ms);
/* The batch that has the message; false: none that has arrived. */
bool ql_schedule_find(
    struct qlog_delay *delay,
    uint64_t due_ms,
    uint64_t sequence,
    struct ql_run **ret_run,
    const struct ql_delay_entry **ret_entry);
/* The message, or any for UINT64_MAX, is accepted and not durable yet. */
bool ql_schedule_is_new(const struct qlog_delay *delay, uint64_t sequence);
/* The run of the segment in which `position` lies, mapped; NULL with a fault: it can't be. */
struct ql_run *ql_schedule_map(struct qlog_delay *delay, uint64_t position);
void ql_schedule_drop_first(struct qlog_delay *delay);
void ql_schedule_free(struct qlog_delay *delay);
/* `count` messages of a batch are marked, or not any more. */
void ql_delay_mark(
    struct qlog_delay *delay,
    const struct ql_delay_entry *entry,
    uint64_t sequence,
    uint32_t count);

/* --- run.c --- */
Q_MUST_CHECK enum q_err ql_run_new(struct ql_run **ret_run);
void ql_run_free(struct qlog_delay *delay, struct ql_run *run);
/* Room for `count` entries more; for one message that is replaced. Q_OK, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_run_reserve(struct ql_run *run, uint32_t count);
Q_MUST_CHECK enum q_err ql_run_reserve_replaced(struct ql_run *run);
void ql_run_add(struct ql_run *run, const struct ql_delay_entry *entry);
/* What a frame of its segment says. Q_OK, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_run_collect(struct ql_run *run, const struct ql_scan *scan);
struct ql_delay_entry ql_delay_entry_of(
    uint64_t base, const struct qbatch *batch, const struct ql_entry *where);
/* Batches below that position are durable. */
void ql_run_arrive(struct qlog_delay *delay, struct ql_run *run, uint64_t durable);
/* Be in a file from now on. */
void ql_run_take_file(struct ql_run *run, struct ql_run_file *file);
/*
 * Entry `index` of `count`; of a run in memory those below `arrived` are durable. Good until the next
 * call for this run. NULL: its page can't be had now, or the run is in memory from now on, in another
 * order, since its file is damaged.
 */
const struct ql_delay_entry *ql_run_at(
    struct qlog_delay *delay, struct ql_run *run, uint32_t index);
/* Of a run in a file: the first entry that is due at `due_ms` or later, with this sequence or a higher
 * one; may be the count. False: as NULL of ql_run_at(). */
bool ql_run_lower_bound(
    struct qlog_delay *delay,
    struct ql_run *run,
    uint64_t due_ms,
    uint64_t sequence,
    uint32_t *ret_index);
/* The same, or some entries before; of any sequence; without a look at the file. */
uint32_t ql_run_coarse_bound(const struct ql_run *run, uint64_t due_ms);
/* The first batch with messages that wait; NULL: none, or it is not known now (delay->blind_ns). */
const struct ql_delay_entry *ql_run_top(struct qlog_delay *delay, struct ql_run *run);
/* Go on behind the top. */
void ql_run_pass(struct ql_run *run);
void ql_run_rewind(struct qlog_delay *delay, struct ql_run *run, uint64_t due_ms);
/* Of a run in memory: this entry may wait. */
void ql_run_push(struct ql_run *run, uint32_t index);
/* Its place among the runs. */
void ql_run_settle(struct qlog_delay *delay, struct ql_run *run);

/* --- dispatch.c --- */
void ql_dispatch_due(struct qlog_delay *delay);
void ql_dispatch_sent(struct qlog_delay *delay, struct qlog_delay_send *send);
void ql_dispatch_retry(struct qlog_delay *delay);
/* When it wants a turn, though nothing completes. */
uint64_t ql_dispatch_deadline_ns(const struct qlog_delay *delay);
/* The open record that names the message, or NULL. */
const struct ql_open *ql_dispatch_names(const struct qlog_delay *delay, uint64_t sequence);
/* A message of an open record lies below this position. */
bool ql_dispatch_needs(const struct qlog_delay *delay, uint64_t base, uint64_t end);
Q_MUST_CHECK enum q_err ql_dispatch_replay(
    struct qlog_delay *delay, const struct ql_dispatch_record *record);
Q_MUST_CHECK enum q_err ql_dispatched_replay(
    struct qlog_delay *delay, const struct ql_dispatched_record *record);
Q_MUST_CHECK enum q_err ql_target_replay(
    struct qlog_delay *delay, const struct ql_target_record *record);
/* State them again. */
Q_MUST_CHECK enum q_err ql_dispatch_state(struct qlog_delay *delay, uint64_t *size);
void ql_dispatch_free(struct qlog_delay *delay);

/* --- build.c --- */
/* The bytes of a request. Q_OK; Q_E_NOMEM, Q_E_IO: not now. */
Q_MUST_CHECK enum q_err ql_open_build(struct ql_open *open);
/* A batch as it is stored, checked: envelope, then payload, in scratch memory that is good until the
 * next call. Q_OK, Q_E_CORRUPT, Q_E_IO, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_delay_read(
    struct qlog_delay *delay,
    uint64_t frame,
    const struct ql_delay_entry *entry,
    struct qbatch *ret_batch,
    const uint8_t **ret_payload);

/* Its content: a view of `payload`, or of scratch memory. Q_OK, Q_E_CORRUPT, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_delay_content(
    struct qlog_delay *delay,
    const struct qbatch *batch,
    const uint8_t *payload,
    struct q_bytes *ret_content);

/* --- aside.c --- */
/* Room for one more. Q_OK, Q_TOO_BIG (QL_ASIDE_MAX are there), Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_aside_reserve(struct qlog_delay *delay);
/* Into the room that was reserved. */
void ql_aside_put(struct qlog_delay *delay, const struct ql_aside *aside);
/* NULL: it is not aside. */
const struct ql_aside *ql_aside_find(const struct qlog_delay *delay, uint64_t sequence);
/* How many of these messages are aside and wait. */
uint32_t ql_aside_count(const struct qlog_delay *delay, uint64_t sequence, uint64_t count);
void ql_aside_encode(const struct ql_aside *aside, struct ql_note *note);
Q_MUST_CHECK enum q_err ql_aside_replay(
    struct qlog_delay *delay, const struct ql_aside_record *record);
/* State them again. */
Q_MUST_CHECK enum q_err ql_aside_state(struct qlog_delay *delay, uint64_t *size);

/* --- query.c --- */
void ql_delay_cancel_start(struct qlog_delay *delay, struct qlog_delay_cancel *cancel);
void ql_delay_reschedule_start(struct qlog_delay *delay, struct qlog_delay_reschedule *reschedule);
/* Its new batch is durable, or it failed. */
void ql_delay_reschedule_go_on(
    struct qlog_delay *delay, struct qlog_delay_reschedule *reschedule, enum q_err err);
void ql_delay_show_start(struct qlog_delay *delay, struct qlog_delay_show *show);
void ql_delay_list_start(struct qlog_delay *delay, struct qlog_delay_list *list);
void ql_delay_histogram_start(struct qlog_delay *delay, struct qlog_delay_histogram *histogram);
void ql_delay_lag_start(struct qlog_delay *delay, struct qlog_delay_lag *lag);
/* It is being moved: it must not be offered. */
bool ql_delay_is_moving(const struct qlog_delay *delay, uint64_t sequence, uint32_t count);

/* --- space.c --- */
void ql_space_turn(struct qlog_delay *delay);
uint64_t ql_space_deadline_ns(const struct qlog_delay *delay);
void ql_space_carried(struct qlog_delay *delay, enum q_err err);
/* The delay log could not be written for want of space. */
void ql_space_full(struct qlog_delay *delay);
/* Whether a message may be taken. Q_OK, Q_STORAGE_FULL. */
Q_MUST_CHECK enum q_err ql_space_check(const struct qlog_delay *delay);
/* Memory for a record of `size` bytes of the dispatch log. Q_OK, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_note_new(
    struct qlog_delay *delay, uint32_t size, struct ql_note **ret_note);
/* Filled in. `flushed`: done when durable. */
void ql_note_append(struct ql_note *note, bool flushed);
/* A message that was marked waits again: what was held to be empty may not be. */
void ql_space_unmarked(struct qlog_delay *delay);
/* It is not going to be appended. */
void ql_note_drop(struct ql_note *note);
void ql_notes_free(struct qlog_delay *delay);

/* --- replay.c --- */
Q_MUST_CHECK enum q_err ql_delay_recover(struct qlog_delay *delay);

/* --- delay.c --- */
void ql_delay_finish(struct qlog_delay_request *request, enum q_err err);

#endif /* QL_DELAY_DELAY_H */
