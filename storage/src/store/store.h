/*
 * store/store.h: the whole store: what its parts share. One file per kind of request.
 *
 * A turn (qlog_store_turn):
 *
 *   read       what came from the disk is checked, beside this thread; its subjects have news
 *   take       all requests of the mailbox; each goes to its kind's function
 *   reap       what completed during the last wait; marks move; what reached its mark is finished
 *              (`done` runs)
 *   look       subjects with news: their parked pulls are tried again
 *   expire     parked pulls and silent consumers whose time is over
 *   retain     once a second: what may go, and how much space is left
 *   write      frames, spares, superblock are queued, and then reads
 *
 * and qlog_store_wait() hands all of it to the kernel, sleeps and collects, in one call.
 *
 * Thread: the store's; submit and wake come from others through the mailbox.
 */
#ifndef QL_STORE_STORE_H
#define QL_STORE_STORE_H

#include <stdatomic.h>

#include <qbase/heap.h>
#include <qbase/mailbox.h>
#include <qlog/store.h>

#include "consume/group.h"
#include "consume/producer.h"
#include "log/index.h"
#include "read/reader.h"
#include "read/scrub.h"
#include "segment/home.h"
#include "store/dead.h"
#include "store/expire.h"
#include "store/memory.h"
#include "store/retention.h"

enum {
    QL_LOG_MESSAGE = 0,
    QL_LOG_ACTION = 1,
    QL_STORE_LOGS
};

struct ql_action;

enum {
    QL_GROUP_NONE = UINT32_MAX
};

/* Of what the superblock says of forgotten pull sequences. */
enum {
    QL_PULLS_UNIT = 256
};

enum ql_round {
    QL_ROUND_NONE,
    QL_ROUND_SAYING,
    QL_ROUND_SAID
};

/* store/statements.c */
struct ql_statements {
    enum ql_round state;
    bool stuck; /* the last slice could not be said */
    uint32_t next_subject;
    uint32_t next_producer;
    uint32_t next_group;
    uint64_t messages_from; /* of the last round: durable when it began */
    uint64_t actions_from;  /* tail when it began */
    uint64_t keep_from;     /* statements from here on are young enough */
    uint64_t oldest;        /* of all last statements */
    uint64_t said_bytes;
    uint64_t said_end;    /* behind the last of the round; 0: not known yet */
    uint64_t actions_end; /* the same of the round before */
    uint64_t ended_ns;
};

/* store/producers.c */
struct ql_producer_round {
    enum ql_round state;
    bool stuck;
    uint32_t next;          /* number of a producer */
    uint64_t messages_from; /* durable when it began */
    uint64_t actions_from;  /* tail when it began */
    uint64_t said_bytes;
    uint64_t said_end; /* behind its last statement; 0: not known yet */
};

/* Of a request whose batches are read one by one. */
struct ql_replayed {
    uint32_t index; /* of the next batch */
    uint32_t from;  /* in the frame, where the first one begins */
    uint32_t digest;
};

struct qlog_store {
    /* Any thread. */
    struct q_mailbox mailbox;
    atomic_bool stopping;

    /* The store thread's from here on. */
    struct ql_home *home;
    struct ql_log *messages; /* home's */
    struct ql_log *actions;
    const struct q_clock *clock;
    uint64_t now_ns;  /* read once a turn */
    uint64_t wall_ms; /* the same; never goes back. What is logged is of this time */

    struct ql_index index;
    struct ql_group **groups; /* by id */
    uint32_t group_count;
    uint32_t group_capacity;
    struct q_map groups_by_name; /* subject id and name */
    uint32_t group_hint;         /* below it every number is taken */
    struct ql_room room;         /* of all groups */
    bool room_wanted;            /* a pull was given nothing new for want of it */
    uint64_t room_next_ns;       /* not before: pulls are tried again */
    uint64_t shrink_next_ns;     /* … groups give back what they have free */
    uint32_t session_count;
    uint64_t forgotten_pulls; /* pull sequences of this generation that forgotten consumers had */

    struct ql_producers producers;
    struct ql_producer_round producer_round;
    struct ql_replayed replayed;
    uint64_t messages_read; /* a start read the message log from here on */
    bool going_on;          /* requests that were held are being looked at */

    struct q_heap pull_deadlines;     /* struct ql_park */
    struct q_map parked;              /* the same pulls, by where they lie in memory */
    struct q_heap consumer_deadlines; /* struct ql_consumer.deadline */
    struct q_heap consumer_timeouts;  /* .timeout */
    struct q_heap group_deadlines;    /* struct ql_group.due */
    struct q_list dying;              /* struct ql_group.dying_link */
    struct q_list stirred;            /* subjects with news for parked pulls */
    uint64_t looked_written;          /* marks at the last look */
    uint64_t looked_durable;
    uint64_t fetch_retry_ns; /* a read could not begin: it is asked for again then; 0: none */
    bool look_again;         /* the last look left something that needs no mark to move */
    bool trim_looks_again;   /* groups have what went, and could not be looked at */

    bool damaged;         /* recovery met rot: records may speak of what it took */
    uint64_t passed_over; /* such records */

    struct ql_reader reader; /* batches of the message log in memory */
    struct ql_scrub scrub;
    uint64_t tell_read_ns;         /* not before: that a read failed */
    struct ql_pull_run *plan_runs; /* a pull's plan */
    struct ql_pass *plan_passes;
    struct ql_keys plan_notes;
    struct qlog_range *ack_ranges; /* an ack's, sorted */
    uint64_t *ack_has;             /* … of each of which its consumer has so many */

    struct ql_dead dead;
    struct ql_statements statements;
    uint64_t replayed_actions; /* where the action log was read from */

    struct ql_action *free_actions;
    uint64_t action_bytes;      /* of all actions there are */
    struct qlog_request *trims; /* the first is under way, the others wait for it */
    struct ql_expiry expiry;    /* what it waits for */
    struct ql_home_trim home_trim;
    struct ql_retention retention;
    struct qlog_counters counters;

    /* Options, defaults filled in. */
    struct ql_memory memory;
    uint64_t consumer_timeout_ns;
    uint32_t window_messages_max;
    uint64_t window_bytes_max;
    uint32_t groups_max;
    enum qlog_mode mode;
};

/* --- action.c --- */
enum {
    /* So a start need not look far for what was in flight. */
    QL_ACTION_FRAME_MAX = 1024 * 1024
};

/*
 * A record of the action log under way. The change it stands for is applied when it is appended;
 * the request, if any, is answered when it is written.
 */
struct ql_action {
    struct ql_append append;
    struct qlog_store *store;
    struct qlog_request *request; /* NULL: nobody waits */
    uint32_t record_count;
    struct ql_subject *subject; /* whose SUBJECT record this is, or NULL */
    bool names;                 /* the subject is new */
    uint32_t group_id;          /* whose GROUP record this is; QL_GROUP_NONE: nobody's */
    uint8_t *record;
    uint32_t record_size;
    uint32_t record_capacity;
    struct ql_action *next; /* in the list of free ones, or of a statement */
};

/* Memory for a record of `size` bytes. Q_OK, Q_E_NOMEM, Q_E_NO_SPACE (the action log is full). */
Q_MUST_CHECK enum q_err ql_action_new(
    struct qlog_store *store, uint32_t size, struct ql_action **ret_action);
/* The same for what makes room: it may use the last of the segment. */
Q_MUST_CHECK enum q_err ql_action_new_always(
    struct qlog_store *store, uint32_t size, struct ql_action **ret_action);
/* Give one back that is not going to be appended. */
void ql_action_drop(struct ql_action *action);
/* The record is filled in and applied. `request` is answered with Q_OK once it is written. */
void ql_action_append(struct ql_action *action, struct qlog_request *request);
void ql_actions_free(struct qlog_store *store);
/* The subject with this name, made and logged when it is not there. As ql_index_need(). */
Q_MUST_CHECK enum q_err ql_store_need_subject(
    struct qlog_store *store, struct q_bytes name, struct ql_subject **ret_subject);

/* --- publish.c --- */
void ql_publish_start(struct qlog_store *store, struct qlog_publish *publish);
/* Apply a batch record of the message log in recovery. */
Q_MUST_CHECK enum q_err ql_publish_replay(
    struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record);

/* --- once.c --- */
/* Requests that were held too long, and producers that were away too long. */
void ql_once_expire(struct qlog_store *store);
/* End all that is held: the store stops, or broke. */
void ql_once_end(struct qlog_store *store);

/* --- producers.c --- */
void ql_producers_turn(struct qlog_store *store);
/* The next turn has something to say. */
bool ql_producers_are_due(const struct qlog_store *store);
/* An action that states a producer, not appended yet. As ql_action_new(); Q_NOT_FOUND: nothing to say. */
Q_MUST_CHECK enum q_err ql_state_producer(
    struct qlog_store *store, struct ql_producer *producer, struct ql_action **ret_action);
/* Whether it has to be stated again before the logs begin at these positions. */
bool ql_producer_is_due(
    const struct qlog_store *store,
    const struct ql_producer *producer,
    uint64_t message_first,
    uint64_t action_first);
/* A batch of the message log; the batches of a request come in their order. */
Q_MUST_CHECK enum q_err ql_producers_replay(
    struct qlog_store *store, const struct qbatch *batch, const struct ql_entry *entry);
/* A PRODUCER record of the action log. */
Q_MUST_CHECK enum q_err ql_producers_apply_statement(
    struct qlog_store *store, const struct ql_producer_record *record, uint64_t position);
/* What neither statements nor the end of the message log tell: requests in what index files cover. */
Q_MUST_CHECK enum q_err ql_producers_recover(struct qlog_store *store);

/* --- groups.c --- */
Q_MUST_CHECK enum q_err ql_store_add_group(
    struct qlog_store *store, const struct ql_group_record *record, struct ql_group **ret_group);
/* It is no more, and what waits in it ends. */
void ql_store_remove_group(struct qlog_store *store, struct ql_group *group);
struct ql_group *ql_store_group(const struct qlog_store *store, uint32_t id);
struct ql_group *ql_store_find_group(
    const struct qlog_store *store, const struct ql_subject *subject, struct q_bytes name);
/* Whether there is room for one group or consumer more. Q_OK or Q_TOO_BIG. */
Q_MUST_CHECK enum q_err ql_store_admit_group(struct qlog_store *store);
/* Who waits for room is tried again when there is some. */
void ql_groups_room(struct qlog_store *store);
/* The lowest number that no group has. */
uint32_t ql_store_free_group_id(struct qlog_store *store);
/* When it will be this time, in the store's monotonic clock. */
uint64_t ql_store_ns_of(const struct qlog_store *store, uint64_t wall_ms);
/* Look at the group at this time, at the latest. */
void ql_group_watch(struct qlog_store *store, struct ql_group *group, uint64_t at_ns);
/* Its pending set has changed: messages become due, or die. */
void ql_group_watch_pending(struct qlog_store *store, struct ql_group *group);
void ql_groups_expire(struct qlog_store *store);
/* Delete it, by an action. `request`, if any, is answered when that is flushed. */
Q_MUST_CHECK enum q_err ql_store_delete_group(
    struct qlog_store *store, struct ql_group *group, struct qlog_request *request);
/* Apply and log a RESOLVE action. The same. */
Q_MUST_CHECK enum q_err ql_store_resolve(
    struct qlog_store *store,
    struct ql_group *group,
    enum ql_verdict verdict,
    const struct ql_resolve_item *items,
    uint32_t count,
    struct qlog_request *request);

/* --- session.c --- */
void ql_join_start(struct qlog_store *store, struct qlog_join *join);
void ql_keep_alive_start(struct qlog_store *store, struct qlog_session *session);
void ql_leave_start(struct qlog_store *store, struct qlog_session *session);
/* The consumer of a session. Q_OK, Q_NOT_FOUND, Q_NO_SESSION, Q_CONSUMER_REPLACED. */
Q_MUST_CHECK enum q_err ql_store_consumer(
    struct qlog_store *store, const struct qlog_consumer *who, struct ql_consumer **ret_consumer);
/* Below, in this generation, no pull sequence is given out: power loss may have taken what says so. */
uint64_t ql_store_pull_floor(const struct qlog_store *store);
/* The next one that a consumer is given. What lies between the last that the log knows of and this one
 * may have been given out by a hand-out that power loss took. */
uint64_t ql_consumer_next(const struct qlog_store *store, const struct ql_consumer *consumer);
/* Where a new consumer begins: an id that was forgotten may come back, and ack what it had. */
uint64_t ql_store_first_pull(const struct qlog_store *store);
/* A consumer is about to be forgotten. */
void ql_store_note_pulls(struct qlog_store *store, const struct ql_consumer *consumer);
void ql_consumer_seen(struct qlog_store *store, struct ql_consumer *consumer);
void ql_consumers_expire(struct qlog_store *store);
/* Something it holds has time until then. */
void ql_consumer_time(struct qlog_store *store, struct ql_consumer *consumer, uint64_t until_ms);
void ql_timeouts_expire(struct qlog_store *store);

/* --- ack.c --- */
void ql_ack_start(struct qlog_store *store, struct qlog_ack *ack);
void ql_nack_start(struct qlog_store *store, struct qlog_nack *nack);

/* --- control.c --- */
void ql_control_start(struct qlog_store *store, struct qlog_control *control);
/* Where a group begins. Q_OK or failures of the index. */
Q_MUST_CHECK enum q_err ql_store_start(
    struct qlog_store *store,
    struct ql_subject *subject,
    enum qlog_start start,
    uint64_t at,
    uint64_t *ret_cursor);
/* Below it, from `low` up to `high`, messages of the subject lie below this position. The same. */
Q_MUST_CHECK enum q_err ql_store_sequence_at(
    struct qlog_store *store,
    struct ql_subject *subject,
    uint64_t position,
    uint64_t low,
    uint64_t high,
    uint64_t *ret_sequence);

/* --- lag.c --- */
void ql_lag_start(struct qlog_store *store, struct qlog_lag *lag);
void ql_groups_start(struct qlog_store *store, struct qlog_groups *groups);

/* --- state.c --- */
void ql_trim_start(struct qlog_store *store, struct qlog_trim *trim);
/* The first trim need not wait for dead letters any more, or ends so. */
void ql_trim_copied(struct qlog_store *store, enum q_err err);
/* What could not be told of some groups after a trim can be told now. */
void ql_trim_look_again(struct qlog_store *store);
/* Finish a trim whose state records are durable. */
void ql_trim_go_on(struct qlog_store *store, struct qlog_trim *trim, enum q_err err);
struct ql_subject_record ql_subject_statement(const struct ql_subject *subject);
/* A number that two stores in the same state share. */
uint64_t ql_store_state_hash(const struct qlog_store *store);

/* --- statement.c --- */
/*
 * Actions that state a group, not appended yet: to be appended one behind the other, along `next`.
 * As ql_action_new_always().
 */
Q_MUST_CHECK enum q_err ql_state_group(
    struct qlog_store *store, struct ql_group *group, struct ql_action **ret_action);

/* --- statements.c --- */
void ql_statements_turn(struct qlog_store *store);
/* The next turn has something to say. */
bool ql_statements_are_due(const struct qlog_store *store);

/* --- pull.c --- */
void ql_pull_start(struct qlog_store *store, struct qlog_pull *pull);
void ql_pull_cancel(struct qlog_store *store, struct qlog_cancel *cancel);
/* End a parked pull: with nothing (Q_OK), or an answer. */
void ql_pull_unpark(struct qlog_store *store, struct qlog_pull *pull, enum q_err err);
/* End all parked pulls: the store stops, or broke. */
void ql_pulls_end(struct qlog_store *store);
void ql_pulls_expire(struct qlog_store *store);
/* The group goes: its parked pulls have no session any more. */
void ql_pulls_of_group_end(struct qlog_store *store, struct ql_group *group);
/* There may be something for this group, or for the groups of this subject. */
void ql_group_try(struct qlog_store *store, struct ql_group *group);
void ql_subject_stir(struct qlog_store *store, struct ql_subject *subject);
/* Something that its parked pulls may have waited for: they are tried in the next turn. */
void ql_group_stir(struct qlog_store *store, struct ql_group *group);
void ql_subjects_look(struct qlog_store *store);
/* One past the last message of the subject that consumers may see. */
uint64_t ql_store_visible_end(const struct qlog_store *store, const struct ql_subject *subject);

/* --- peek.c --- */
void ql_peek_start(struct qlog_store *store, struct qlog_peek *peek);

/* --- fetch.c --- */
/* `scrub_rate`: bytes per second; 0: the default. */
void ql_fetch_init(struct qlog_store *store, uint64_t scrub_rate);
/* Nothing of it is under way in the log's io any more. Before the log goes; a second time is fine. */
void ql_fetch_fini(struct qlog_store *store);
/*
 * The batch of an entry, for a pull of this group. Q_OK: the piece is pinned. Q_AGAIN: it is being
 * read; the subject's parked pulls are tried again when it has come. Q_E_CORRUPT: it is damaged, which
 * was told. Q_E_IO, Q_E_NOMEM: it can't be read now.
 */
Q_MUST_CHECK enum q_err ql_fetch_piece(
    struct qlog_store *store,
    struct ql_group *group,
    const struct ql_entry *entry,
    struct qlog_piece *ret_piece);
/* The same for nobody in particular: nothing is read ahead, and nobody is tried again. */
Q_MUST_CHECK enum q_err ql_fetch_plain(
    struct qlog_store *store,
    const struct ql_subject *subject,
    const struct ql_entry *entry,
    struct qlog_piece *ret_piece);
/* Any thread. */
void ql_fetch_release(struct qlog_piece *piece);
/* The same of its envelope alone, until the end of the turn. */
Q_MUST_CHECK enum q_err ql_fetch_envelope(
    struct qlog_store *store,
    struct ql_group *group,
    const struct ql_entry *entry,
    struct qbatch *ret_batch);

/* --- replay.c --- */
/* Both logs, through the same functions as live traffic. */
Q_MUST_CHECK enum q_err ql_store_recover(struct qlog_store *store);
/* What follows once both logs are open again. Q_OK or a failure to read the index. */
Q_MUST_CHECK enum q_err ql_store_finish_recovery(struct qlog_store *store);

/* --- store.c --- */
void ql_request_finish(struct qlog_request *request, enum q_err err);
enum qlog_mode ql_store_mode(const struct qlog_store *store, const struct ql_subject *subject);

#endif /* QL_STORE_STORE_H */
