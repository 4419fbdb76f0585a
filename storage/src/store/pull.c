/*
 * store/pull.c: pulls: asked, answered, parked. What one is given: store/hand.c.
 *
 * A pull that finds nothing, or less than it wants at least, is parked with its group. News of its
 * subject (a mark that moved over new entries), and of its group (messages that were released, or are
 * due), try the group's parked pulls, first come first served.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "planted.h"
#include "store/hand.h"

/* A parked pull, in its private words. */
struct ql_park {
    struct q_list link; /* in ql_group.parked */
    struct q_heap_node deadline;
    struct ql_consumer *consumer;
    bool parked;
    bool unseen;   /* the filter has not looked at everything yet */
    bool fetching; /* something of it is being read from the disk */
};

_Static_assert(sizeof(struct ql_park) <= sizeof(struct qlog_private), "private words are too few");

/* What waits for the disk without a read under way (there was no memory for it) asks again. */
#define FETCH_RETRY_NS (10 * (uint64_t)Q_NS_PER_MS)
/* How long a pull that would not wait may still be looked for by its filter, or on the disk. Clients
 * wait for five seconds more than they ask for. */
#define LOOK_WAIT_NS (3 * (uint64_t)Q_NS_PER_S)

static bool pull_try(struct qlog_store *store, struct qlog_pull *pull, bool last);
static void pull_park(
    struct qlog_store *store, struct qlog_pull *pull, struct ql_consumer *consumer);
static void pull_note_fetching(struct qlog_store *store, struct ql_park *park, bool fetching);
static void pull_leave_park(struct qlog_store *store, struct qlog_pull *pull);
static uint64_t pull_waiting(const struct qlog_store *store, struct qlog_pull *pull);
static bool group_has_news(const struct qlog_store *store, const struct ql_group *group);

static struct ql_park *
park_of(struct qlog_pull *pull)
{
    return (struct ql_park *)(void *)&pull->private_;
}

static struct qlog_pull *
pull_of_park(struct ql_park *park)
{
    return q_container_of(park, struct qlog_pull, private_);
}

/* It waits for messages, and not for what is there already to come from the disk. */
static bool
pull_is_patient(struct ql_park *park)
{
    return pull_of_park(park)->wait_ns > 0 && !park->fetching;
}

struct qlog_pull *
ql_pull_of_link(struct q_list *link)
{
    return pull_of_park(q_container_of(link, struct ql_park, link));
}

uint64_t
ql_store_visible_end(const struct qlog_store *store, const struct ql_subject *subject)
{
    bool early = ql_store_mode(store, subject) == QLOG_MODE_ASYNC || QL_PLANTED(seen_before_flush);
    uint64_t mark = early ? store->messages->written : store->messages->durable;
    return ql_index_visible_end(&store->index, subject, mark);
}

void
ql_pull_start(struct qlog_store *store, struct qlog_pull *pull)
{
    struct ql_park *park = park_of(pull);
    memset(park, 0, sizeof(*park));
    q_list_init(&park->link);
    q_heap_node_init(&park->deadline);
    pull->run_count = 0;
    pull->piece_count = 0;
    pull->waiting = 0;
    pull->held = QLOG_HELD_NOT;
    struct ql_consumer *consumer;
    enum q_err err = ql_store_consumer(store, &pull->who, &consumer);
    if (err == Q_OK && (pull->messages_max == 0 || pull->runs_max == 0 || pull->pieces_max == 0))
        err = Q_FAIL(Q_INVALID, .what = "a pull for no messages");
    if (err == Q_OK && pull->received > ql_consumer_next(store, consumer))
        err = Q_FAIL(
            Q_INVALID,
            .what = q_text(
                "pull sequence %llu was never handed out", (unsigned long long)pull->received));
    if (err != Q_OK) {
        ql_request_finish(&pull->request, err);
        return;
    }
    ql_consumer_seen(store, consumer);
    if (consumer->parked != NULL) ql_pull_unpark(store, consumer->parked, Q_OK);
    park->consumer = consumer;
    if (pull_try(store, pull, pull->wait_ns == 0)) return;
    if (pull->wait_ns > 0 || park->unseen || park->fetching) {
        pull_park(store, pull, consumer);
        return;
    }
    ql_request_finish(&pull->request, Q_OK);
}

/*
 * True when the pull was answered, or is going to be when its action is written. `last`: it will not
 * wait any longer, and takes what is there.
 */
static bool
pull_try(struct qlog_store *store, struct qlog_pull *pull, bool last)
{
    struct ql_park *park = park_of(pull);
    struct ql_consumer *consumer = park->consumer;
    struct ql_action *action = NULL;
    bool fetching = false;
    enum ql_hand_wait wait = QL_HAND_NEWS;
    pull->unacked = consumer->held_messages;
    enum q_err err = ql_hand_repeat(store, pull, consumer, &action, &fetching);
    if (err == Q_NOT_FOUND && !fetching)
        err = ql_hand_out(store, pull, consumer, last, &action, &wait);
    pull_note_fetching(store, park, err == Q_NOT_FOUND && (fetching || wait == QL_HAND_FETCH));
    if (err == Q_NOT_FOUND) {
        if (park->fetching) ql_subject_stir(store, consumer->group->subject);
        if (wait == QL_HAND_LOOK) {
            /* Its filter took nothing in one try's worth of messages: it goes on in the next turn. */
            ql_subject_stir(store, consumer->group->subject);
            store->look_again = true;
            park->unseen = true;
        }
        return false;
    }
    pull_leave_park(store, pull);
    if (err == Q_OK && action != NULL)
        ql_action_append(action, &pull->request);
    else
        ql_request_finish(&pull->request, err);
    return true;
}

/* --- Parked pulls. */

static void
pull_park(struct qlog_store *store, struct qlog_pull *pull, struct ql_consumer *consumer)
{
    struct ql_park *park = park_of(pull);
    struct ql_group *group = consumer->group;
    uint64_t wait_ns = pull->wait_ns == 0 ? LOOK_WAIT_NS : pull->wait_ns;
    enum q_err err = q_heap_push(&store->pull_deadlines, &park->deadline, store->now_ns + wait_ns);
    if (err != Q_OK) {
        pull_note_fetching(store, park, false);
        ql_request_finish(&pull->request, err);
        return;
    }
    park->parked = true;
    consumer->parked = pull;
    /* Those that would not wait for messages, but for the disk, come first. */
    struct q_list *before = pull_is_patient(park) ? &group->parked : group->parked.next;
    while (before != &group->parked &&
           !pull_is_patient(q_container_of(before, struct ql_park, link)))
        before = before->next;
    q_list_insert_before(before, &park->link);
    if (!q_list_is_linked(&group->parked_link))
        q_list_push_back(&group->subject->parked_groups, &group->parked_link);
    store->counters.parked++;
    /* Entries may be there that no mark has passed yet. */
    ql_subject_stir(store, group->subject);
}

/* Pulls that wait for the disk are counted, so that nobody looks for one in vain. */
static void
pull_note_fetching(struct qlog_store *store, struct ql_park *park, bool fetching)
{
    if (fetching && !park->fetching) store->fetching++;
    if (!fetching && park->fetching) store->fetching--;
    park->fetching = fetching;
}

static void
pull_leave_park(struct qlog_store *store, struct qlog_pull *pull)
{
    struct ql_park *park = park_of(pull);
    pull_note_fetching(store, park, false);
    if (!park->parked) return;
    struct ql_group *group = park->consumer->group;
    /* Until now it was a sign of life. */
    park->consumer->last_seen_ns = store->now_ns;
    park->parked = false;
    park->consumer->parked = NULL;
    q_list_remove(&park->link);
    q_heap_remove(&store->pull_deadlines, &park->deadline);
    if (q_list_is_empty(&group->parked)) q_list_remove(&group->parked_link);
    store->counters.parked--;
}

/* What there is though nothing is handed out: new ones, and what is still on its way from the disk. */
static uint64_t
pull_waiting(const struct qlog_store *store, struct qlog_pull *pull)
{
    const struct ql_park *park = park_of(pull);
    const struct ql_consumer *consumer = park->consumer;
    const struct ql_group *group = consumer->group;
    uint64_t visible_end = ql_store_visible_end(store, group->subject);
    uint64_t waiting = visible_end > group->cursor ? visible_end - group->cursor : 0;
    if (!park->fetching) return waiting;
    if (group->due_ms <= store->wall_ms) waiting += group->pending_messages;
    const struct ql_spans *held = &consumer->held;
    for (uint32_t i = ql_spans_find(held, pull->received); i < held->count; i++) {
        const struct ql_range_item *item = ql_span_at(held, i);
        uint64_t end = item->pull_sequence + item->count;
        waiting += end - q_max_u64(item->pull_sequence, pull->received);
    }
    return waiting;
}

void
ql_pull_unpark(struct qlog_store *store, struct qlog_pull *pull, enum q_err err)
{
    pull->waiting = err == Q_OK ? pull_waiting(store, pull) : 0;
    pull->unacked = park_of(pull)->consumer->held_messages;
    pull_leave_park(store, pull);
    if (err == Q_CONSUMER_REPLACED || err == Q_NO_SESSION)
        err = Q_FAIL(err, .what = "the session ended while the pull was waiting");
    if (err == Q_STOPPING) err = Q_FAIL(err, .what = "the pull was ended while it was waiting");
    if (err < Q_OK) err = ql_env_check(&store->home->env);
    ql_request_finish(&pull->request, err);
}

void
ql_pull_cancel(struct qlog_store *store, struct qlog_cancel *cancel)
{
    /* The target may have been answered, and its memory be gone: look, don't touch. */
    for (uint32_t i = 0; i < store->pull_deadlines.count; i++) {
        struct ql_park *park =
            q_container_of(store->pull_deadlines.nodes[i], struct ql_park, deadline);
        if (pull_of_park(park) != cancel->target) continue;
        ql_pull_unpark(store, cancel->target, Q_STOPPING);
        break;
    }
    ql_request_finish(&cancel->request, Q_OK);
}

void
ql_pulls_expire(struct qlog_store *store)
{
    for (;;) {
        struct q_heap_node *node = q_heap_first(&store->pull_deadlines);
        if (node == NULL || node->key > store->now_ns) return;
        struct ql_park *park = q_container_of(node, struct ql_park, deadline);
        struct qlog_pull *pull = pull_of_park(park);
        if (!pull_try(store, pull, true)) ql_pull_unpark(store, pull, Q_OK);
    }
}

void
ql_pulls_end(struct qlog_store *store)
{
    enum q_err err = store->home->env.broken;
    struct q_heap_node *node;
    while ((node = q_heap_first(&store->pull_deadlines)) != NULL) {
        struct ql_park *park = q_container_of(node, struct ql_park, deadline);
        ql_pull_unpark(store, pull_of_park(park), err == Q_OK ? Q_STOPPING : err);
    }
    while (q_list_pop_front(&store->stirred) != NULL)
        continue;
}

void
ql_group_try(struct qlog_store *store, struct ql_group *group)
{
    /* Members with the same filter find the same: after one that found nothing, the others would. */
    uint16_t fruitless = 0;
    q_list_for_each_safe(link, &group->parked) {
        struct ql_park *park = q_container_of(link, struct ql_park, link);
        struct qlog_pull *pull = pull_of_park(park);
        /* What is being read may be what a pull behind this one holds already. */
        if (!group_has_news(store, group) && pull_is_patient(park)) {
            if (store->fetching == 0) return;
            continue;
        }
        uint16_t filter = (uint16_t)(1u << park->consumer->filter);
        uint64_t held = park->consumer->held_messages;
        /* One that reads, or would not wait, has an answer of its own to get. */
        if ((fruitless & filter) != 0 && pull_is_patient(park)) continue;
        if (pull_try(store, pull, pull->wait_ns == 0) || park->fetching) continue;
        bool could = held < store->window_messages_max && pull->messages_min <= 1 &&
                     pull->bytes_min == 0 && park->consumer->held_bytes < store->window_bytes_max;
        if (could) fruitless |= filter;
        /* It did not want to wait, only for its filter to see everything, or for the disk. */
        if (pull->wait_ns == 0 && ql_store_visible_end(store, group->subject) <= group->cursor)
            ql_pull_unpark(store, pull, Q_OK);
    }
}

static bool
group_has_news(const struct qlog_store *store, const struct ql_group *group)
{
    if (group->paused) return false;
    return group->due_ms <= store->wall_ms ||
           ql_store_visible_end(store, group->subject) > group->cursor;
}

void
ql_subject_stir(struct qlog_store *store, struct ql_subject *subject)
{
    if (q_list_is_empty(&subject->parked_groups) || q_list_is_linked(&subject->stirred_link))
        return;
    q_list_push_back(&store->stirred, &subject->stirred_link);
}

void
ql_subjects_look(struct qlog_store *store)
{
    const struct ql_log *log = store->messages;
    bool retry = store->fetching > 0 && store->now_ns >= store->fetch_retry_ns;
    if (store->looked_written == log->written && store->looked_durable == log->durable &&
        !store->look_again && !retry)
        return;
    store->fetch_retry_ns = store->now_ns + FETCH_RETRY_NS;
    store->looked_written = log->written;
    store->looked_durable = log->durable;
    store->look_again = false;
    struct q_list stirred;
    q_list_init(&stirred);
    q_list_splice_back(&stirred, &store->stirred);
    struct q_list *node;
    while ((node = q_list_pop_front(&stirred)) != NULL) {
        struct ql_subject *subject = q_container_of(node, struct ql_subject, stirred_link);
        q_list_for_each_safe(link, &subject->parked_groups)
            ql_group_try(store, q_container_of(link, struct ql_group, parked_link));
        /* Entries in flight become visible when a mark moves: look again then. */
        if (ql_store_visible_end(store, subject) < subject->next_sequence)
            ql_subject_stir(store, subject);
    }
}
