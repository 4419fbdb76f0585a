/*
 * store_model.h: what a message store was asked for and promised, and the check against a store.
 *
 * Publishes are a queue: what the message log holds is a prefix of what was submitted, less the head
 * that was trimmed. Of consumption the model knows which messages somebody has asked to be done with
 * and which acknowledgements were promised: between these two bounds lies what a recovered group may
 * have for done, and everything else must still be coming.
 */
#ifndef TESTS_CRASH_STORE_MODEL_H
#define TESTS_CRASH_STORE_MODEL_H

#include "store/store.h"
#include "work.h"

enum {
    MODEL_SUBJECTS = 4,
    MODEL_BATCHES_MAX = 3,
    MODEL_NAME_MAX = 16,
    MODEL_NO_TAG = -1
};

#define MODEL_UNKNOWN UINT64_MAX

struct model_batch {
    unsigned subject;
    uint32_t count;
    int tag; /* of all its messages */
    uint64_t payload_hash;
    uint64_t first; /* sequence, once known */
};

struct model_publish {
    /* And its request's number; one that is sent again as a new one has an entry more. */
    uint32_t id;
    bool sent_again; /* this is such an entry */
    uint64_t seed;   /* of its bytes */
    uint64_t time_ms;
    uint32_t body;
    struct promise promise;
    uint64_t bound; /* durable once the message log's mark is here */
    uint64_t frame; /* where it is, once known */
    unsigned batch_count;
    struct model_batch batches[MODEL_BATCHES_MAX];
};

struct model_group {
    unsigned subject;
    char name[MODEL_NAME_MAX];
    int tag;        /* of its filter */
    uint64_t start; /* first sequence, once known */
    struct promise promise;
    uint64_t bound;
};

/* Messages that a consumer was given: submitted is when it got them. */
struct model_hand {
    unsigned group;
    char consumer[MODEL_NAME_MAX];
    uint64_t session;
    uint64_t pull_sequence;
    uint64_t sequence;
    uint32_t count;
    struct promise promise;
    uint64_t bound;
};

/* A message that a consumer is done with. */
struct model_done {
    unsigned group;
    uint64_t sequence;
    bool in_vain; /* power loss took the hand-out: the store can't know what is meant */
    struct promise promise;
    uint64_t bound;
};

struct model_trim {
    uint64_t messages_before;
    struct promise promise;
};

/* Nothing was under way: recovery must give this very state. */
struct model_rest {
    uint64_t moment;
    uint64_t hash;
    bool flushed;
};

struct store_history {
    struct history history;
    const void *plan;
    struct model_publish *publishes;
    unsigned publish_count;
    struct model_group *groups;
    unsigned group_count;
    struct model_hand *hands;
    unsigned hand_count;
    struct model_done *dones;
    unsigned done_count;
    struct model_trim *trims;
    unsigned trim_count;
    struct model_rest *rests;
    unsigned rest_count;
    uint32_t next_id;
    bool gaps; /* sequences that nobody has are fine: power was lost, or a head was trimmed */
    bool hash_wanted; /* recovery must give this state */
    uint64_t hash;
};

/* Zeroed room for one more; the array moves. */
#define model_add(array, count)                                                                    \
    (model_grow((void **)&(array), (count), sizeof(*(array))), &(array)[(count)++])
void model_grow(void **array, unsigned count, size_t size);

struct store_history *store_history_new(const struct work_kind *kind, const void *plan);
void store_history_free(struct store_history *history);
struct store_history *store_history_cut(const struct store_history *whole, uint64_t at, bool kill);
/* The power goes. */
void store_history_void(struct store_history *history, uint64_t now);
/* The logs' marks moved. */
void store_history_durable(
    struct store_history *history, uint64_t messages, uint64_t actions, uint64_t now);
/* Nothing is under way in the store. */
void store_history_rest(struct store_history *history, struct qlog_store *store, uint64_t now);

const char *model_subject_name(unsigned subject);
const char *model_tag_name(int tag);
/* The body of message `index` of a batch. */
void model_body(char out[32], uint32_t id, unsigned batch, uint32_t index);
/* The batch that holds a message, and its publish; NULL: none that is known. */
const struct model_batch *model_find(
    const struct store_history *history,
    unsigned subject,
    uint64_t sequence,
    const struct model_publish **ret_publish);
/* Whether the store has to know that it gave this out. */
bool model_hand_holds(
    const struct store_history *history,
    unsigned group,
    const char *consumer,
    uint64_t pull_sequence);
/* Group of this name that may be there; -1: none. */
int model_find_group(const struct store_history *history, unsigned subject, const char *name);

/*
 * Hold a store against the history. `recovered`: it was opened just now, and what is found is
 * promised from `now` on, what is not found must not come back. `io`: to read the disk with.
 */
void store_verify(
    struct store_history *history,
    struct qlog_store *store,
    struct qlog_io *io,
    const char *directory,
    bool recovered,
    uint64_t now,
    struct verdict *verdict);

#endif /* TESTS_CRASH_STORE_MODEL_H */
