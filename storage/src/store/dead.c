/*
 * store/dead.c: messages without attempts, or whose segment is about to go, become dead letters.
 *
 *   dying     their group is in the store's list
 *   copied    some of one group are published to its dead-letter subject, flushed
 *   dead      the copy is durable, and a RESOLVE action says so
 *
 * One request is under way at a time. A crash between the copy and the action copies again: a dead
 * letter may be there twice, never not at all.
 */
#include "store/dead.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbatch/build.h>

#include "planted.h"
#include "store/store.h"

enum {
    PROPERTIES_OWN = 10,
    NUMBER_SIZE = 24
};
#define RETRY_NS   (10 * (uint64_t)Q_NS_PER_MS)
#define REFUSED_NS ((uint64_t)Q_NS_PER_S)

/* A message, opened; and what its copy says about it. */
struct letter {
    struct qbatch batch;
    struct qbatch_view view;
    struct q_bytes tags[QBATCH_TAGS_MAX];
    struct q_bytes keys[QBATCH_KEYS_MAX];
    struct qbatch_property properties[QBATCH_PROPERTIES_MAX + PROPERTIES_OWN];
    char numbers[PROPERTIES_OWN][NUMBER_SIZE];
    char id[QBATCH_ID_TEXT_SIZE];
};

static enum q_err dead_collect(struct qlog_store *store, struct ql_group *group);
static enum q_err dead_add(
    struct qlog_store *store, struct ql_group *group, const struct ql_range_item *item);
static enum q_err letter_open(
    struct ql_dead *dead, const struct qlog_piece *piece, uint64_t sequence, struct letter *letter);
static void letter_fill(
    struct letter *letter,
    const struct ql_group *group,
    const struct ql_range_item *item,
    struct qbatch_message *message);
static void letter_own(
    struct letter *letter,
    const struct ql_group *group,
    const struct ql_range_item *item,
    struct qbatch_message *message);
static enum q_err dead_publish(struct qlog_store *store, struct ql_group *group);
static void dead_on_published(struct qlog_request *request, enum q_err err);

void
ql_dead_fini(struct ql_dead *dead)
{
    qbatch_builder_free(dead->builder);
    free(dead->envelope);
    free(dead->payload);
    free(dead->content);
    *dead = (struct ql_dead){ 0 };
}

void
ql_dead_turn(struct qlog_store *store)
{
    struct ql_dead *dead = &store->dead;
    bool fetched = dead->fetching && !ql_reader_is_busy(&store->reader);
    if (dead->busy || (store->now_ns < dead->retry_ns && !fetched)) return;
    dead->fetching = false;
    struct q_list *link = q_list_pop_front(&store->dying);
    if (link == NULL) return;
    struct ql_group *group = q_container_of(link, struct ql_group, dying_link);
    if (group->pending_by[QL_REASON_DYING] == 0) return;
    /* Groups take turns. */
    q_list_push_back(&store->dying, link);
    enum q_err err = dead_collect(store, group);
    if (err == Q_OK && dead->count > 0) err = dead_publish(store, group);
    if (err == Q_OK) return;
    dead->fetching = err == Q_AGAIN;
    dead->retry_ns = store->now_ns + (err == Q_AGAIN ? RETRY_NS : REFUSED_NS);
}

uint64_t
ql_dead_deadline_ns(const struct qlog_store *store)
{
    if (store->dead.busy || q_list_is_empty(&store->dying)) return UINT64_MAX;
    return store->dead.retry_ns;
}

/* Some of those that die. What is not stored any more is expired. */
static enum q_err
dead_collect(struct qlog_store *store, struct ql_group *group)
{
    struct ql_dead *dead = &store->dead;
    if (dead->builder == NULL) {
        struct qbatch_builder_options options = { .compress = true };
        q_store_le64(options.producer_id, store->home->env.generation);
        memcpy(options.producer_id + 8, "dead-let", 8);
        for (unsigned i = 0; i < 8; i++)
            options.producer_id[i] ^= store->home->super.store_id[i];
        Q_TRY(qbatch_builder_new(&options, &dead->builder));
    }
    qbatch_builder_reset(dead->builder);
    dead->count = 0;
    enum q_err failed = Q_OK;
    for (uint32_t i = 0; i < group->pending.count && dead->count < QL_DEAD_MAX; i++) {
        const struct ql_range_item *span = ql_span_at(&group->pending, i);
        if (span->reason != QL_REASON_DYING) continue;
        for (uint32_t j = 0; j < span->count && dead->count < QL_DEAD_MAX; j++) {
            struct ql_range_item item = ql_span_part(&group->pending, span, span->sequence + j, 1);
            enum q_err err = dead_add(store, group, &item);
            if (err == Q_NOT_FOUND) {
                struct ql_resolve_item gone = { item.sequence, item.sequence, 0 };
                ql_group_stir(store, group);
                return ql_store_resolve(store, group, QL_VERDICT_EXPIRED, &gone, 1, NULL);
            }
            /* The batch is full, or the next one has to be read: so much for now. */
            if (err == Q_AGAIN && dead->count > 0) return Q_OK;
            /* What the disk does not give keeps nothing else up. */
            if (err == Q_E_IO) failed = err;
            if (err == Q_E_IO) continue;
            if (err != Q_OK) return err;
            dead->items[dead->count++] =
                (struct ql_resolve_item){ item.sequence, item.sequence, 0 };
        }
    }
    return dead->count > 0 ? Q_OK : failed;
}

/* Q_OK, Q_AGAIN, Q_NOT_FOUND (it is not stored, or damaged), failures. */
static enum q_err
dead_add(struct qlog_store *store, struct ql_group *group, const struct ql_range_item *item)
{
    struct ql_dead *dead = &store->dead;
    struct ql_entry entry;
    struct qlog_piece piece;
    Q_TRY(ql_index_entry(&store->index, group->subject, item->sequence, &entry));
    if (entry.first_sequence > item->sequence) return Q_NOT_FOUND;
    enum q_err err = ql_fetch_piece(store, group, &entry, &piece);
    if (err == Q_E_CORRUPT) return Q_NOT_FOUND;
    if (err != Q_OK) return err;
    static const unsigned ways = 3;
    struct letter *letter = calloc(1, sizeof(*letter));
    err = letter == NULL ? Q_FAIL(Q_E_NOMEM, .what = "dead letter")
                         : letter_open(dead, &piece, item->sequence, letter);
    /* What does not fit into the limits of a message stays away: its own properties, then ours. */
    for (unsigned way = 0; err == Q_OK && way < ways; way++) {
        struct qbatch_message message = {
            .body = letter->view.body,
            .time_ms = store->wall_ms,
            .counter = dead->counter,
        };
        if (way == 0) letter_fill(letter, group, item, &message);
        if (way <= 1) letter_own(letter, group, item, &message);
        err = qbatch_builder_add(dead->builder, &message);
        if (err == Q_OK) break;
        if (err != Q_AGAIN && way + 1 < ways) err = Q_OK;
    }
    if (err == Q_OK) dead->counter++;
    free(letter);
    ql_fetch_release(&piece);
    return err == Q_E_CORRUPT ? Q_NOT_FOUND : err;
}

static enum q_err
letter_open(
    struct ql_dead *dead, const struct qlog_piece *piece, uint64_t sequence, struct letter *letter)
{
    Q_TRY(qbatch_open_trusted(q_bytes_from(piece->envelope, piece->envelope_size), &letter->batch));
    if (letter->batch.content_length > dead->content_capacity) {
        uint8_t *content = realloc(dead->content, letter->batch.content_length);
        if (content == NULL) return Q_FAIL(Q_E_NOMEM, .what = "content of a batch");
        dead->content = content;
        dead->content_capacity = letter->batch.content_length;
    }
    struct q_bytes content;
    Q_TRY(qbatch_content(&letter->batch, piece->payload, dead->content, &content));
    struct qbatch_walk walk;
    qbatch_walk_start(&walk, &letter->batch, content);
    enum q_err err;
    while ((err = qbatch_walk_next(&walk, false, &letter->view)) == Q_OK)
        if (letter->batch.first_sequence + letter->view.index == sequence) return Q_OK;
    return err == Q_END ? Q_E_CORRUPT : err;
}

/* What the message brought: tags, keys, order key, properties. */
static void
letter_fill(
    struct letter *letter,
    const struct ql_group *group,
    const struct ql_range_item *item,
    struct qbatch_message *message)
{
    (void)group;
    (void)item;
    for (uint32_t i = 0; i < letter->batch.tag_count && message->tag_count < QBATCH_TAGS_MAX; i++)
        if ((letter->view.entry.tags >> i & 1) != 0) {
            struct q_bytes tag = qbatch_tag_at(&letter->batch, i);
            /* Whoever looks at dead letters is given it. */
            if (tag.data[0] != QBATCH_ONLY) letter->tags[message->tag_count++] = tag;
        }
    struct q_bytes at = letter->view.properties;
    struct q_bytes key;
    struct q_bytes value;
    while (qbatch_property_next(&at, &key, &value) == Q_OK) {
        if (q_bytes_equal(key, q_bytes_from_text(QBATCH_PROPERTY_ORDER_KEY)))
            message->order_key = value;
        else if (q_bytes_equal(key, q_bytes_from_text(QBATCH_PROPERTY_KEY))) {
            if (message->key_count < QBATCH_KEYS_MAX) letter->keys[message->key_count++] = value;
        } else if (
            key.size > 0 && key.data[0] != '%' && message->property_count < QBATCH_PROPERTIES_MAX)
            letter->properties[message->property_count++] = (struct qbatch_property){ key, value };
    }
    message->tags = letter->tags;
    message->keys = letter->keys;
}

/* What became of it. */
static void
letter_own(
    struct letter *letter,
    const struct ql_group *group,
    const struct ql_range_item *item,
    struct qbatch_message *message)
{
    uint64_t attempts = ql_uses_attempt(item->uses) - 1;
    const struct {
        const char *name;
        struct q_bytes text;
        uint64_t number; /* when there is no text */
    } own[PROPERTIES_OWN] = {
        { "dead-subject", q_bytes_from(group->subject->name, group->subject->name_size), 0 },
        { "dead-group", q_bytes_from(group->name, group->name_size), 0 },
        { "dead-id", q_bytes_from_text(qbatch_id_format(&letter->view.id, letter->id)), 0 },
        { "dead-reason", q_bytes_from_text(item->expiring ? "expired" : "attempts"), 0 },
        { "dead-error", ql_group_error(group, item->sequence), 0 },
        { "dead-sequence", { 0 }, item->sequence },
        { "dead-attempts", { 0 }, attempts },
        { "dead-failed", { 0 }, item->uses.failed },
        { "dead-timed-out", { 0 }, item->uses.timed_out },
        { "dead-died", { 0 }, item->uses.died },
    };
    for (unsigned i = 0; i < PROPERTIES_OWN; i++) {
        struct q_bytes value = own[i].text;
        if (value.data == NULL) {
            int size = snprintf(
                letter->numbers[i], NUMBER_SIZE, "%llu", (unsigned long long)own[i].number);
            value = q_bytes_from(letter->numbers[i], (size_t)size);
        }
        letter->properties[message->property_count++] =
            (struct qbatch_property){ q_bytes_from_text(own[i].name), value };
    }
    message->properties = letter->properties;
}

static enum q_err
dead_publish(struct qlog_store *store, struct ql_group *group)
{
    struct ql_dead *dead = &store->dead;
    uint32_t envelope_size;
    uint32_t payload_size;
    Q_TRY(qbatch_builder_close(dead->builder, &envelope_size, &payload_size));
    free(dead->envelope);
    free(dead->payload);
    dead->envelope = malloc(envelope_size);
    dead->payload = malloc(payload_size + 1);
    if (dead->envelope == NULL || dead->payload == NULL)
        return Q_FAIL(Q_E_NOMEM, .what = "dead letters");
    /* Number 0: the store sends none of them again as it is, and one that is refused leaves no gap. */
    struct qbatch_request_place place = { 0, 0, 1 };
    qbatch_builder_write(dead->builder, &place, dead->envelope, dead->payload);
    int size = snprintf(
        dead->name, sizeof(dead->name), "%s%s%%%s", QL_DEAD_PREFIX, group->subject->name,
        group->name);
    dead->subject = q_bytes_from(dead->name, q_min_u64((uint64_t)size, (uint64_t)QLOG_SUBJECT_MAX));
    dead->group_id = group->id;
    dead->epoch = group->epoch;
    dead->publish = (struct qlog_publish){
        .request = { .kind = QLOG_PUBLISH, .done = dead_on_published, .context = store },
        .envelopes = dead->envelope,
        .envelopes_size = envelope_size,
        .payloads = dead->payload,
        .payloads_size = payload_size,
        .subjects = &dead->subject,
        .batch_count = 1,
        .mode = QL_PLANTED(expired_undurable) ? QLOG_MODE_ASYNC : QLOG_MODE_SYNC,
        .ret_first_sequences = &dead->first_sequence,
    };
    Q_TRY(qlog_publish_check(&dead->publish));
    dead->busy = true;
    ql_publish_start(store, &dead->publish);
    return Q_OK;
}

static void
dead_on_published(struct qlog_request *request, enum q_err err)
{
    struct qlog_store *store = request->context;
    struct ql_dead *dead = &store->dead;
    dead->busy = false;
    struct ql_group *group = ql_store_group(store, dead->group_id);
    /* Since a seek, or in another group of that number, these messages are not dying. */
    bool same = group != NULL && group->epoch == dead->epoch;
    if (err == Q_OK && same)
        err = ql_store_resolve(store, group, QL_VERDICT_DEAD, dead->items, dead->count, NULL);
    /* Refused, or no room for the action: they are copied again. */
    if (err != Q_OK) dead->retry_ns = store->now_ns + REFUSED_NS;
    if (err != Q_OK || !same) return;
    /* A filter whose time is over may have waited for this. */
    ql_group_watch(store, group, store->now_ns);
    ql_group_try(store, group);
}
