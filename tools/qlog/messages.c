#include "messages.h"

#include <inttypes.h>
#include <stdlib.h>

#include <qbase/text.h>

#include "format/block.h"
#include "format/record.h"
#include "json.h"
#include "when.h"

enum {
    CLOCKS_APART_MS = 60 * 1000, /* a producer's and a broker's */
};

static enum q_err find_places(struct messages *messages, const char *directory);
static enum q_err look_before(struct messages *messages);
static enum q_err next_record(struct messages *messages, struct qlog_damage *ret_damage);
static enum q_err next_batch(struct messages *messages, struct qlog_damage *ret_damage);
static bool batch_is_of_subject(struct messages *messages);
static bool batch_is_wanted(struct messages *messages);
static bool batch_has_key(const struct messages *messages);
static enum q_err begin_batch(struct messages *messages, struct qlog_damage *ret_damage);
static enum q_err batch_damage(
    struct messages *messages, struct qlog_damage *ret_damage, const char *what);
static bool message_is_wanted(const struct messages *messages, const struct message *message);

enum q_err
messages_open(
    struct messages *messages,
    const char *directory,
    const char *subject,
    const struct message_options *options)
{
    *messages = (struct messages){
        .directory = directory,
        .subject = subject,
        .options = *options,
        .until_ms = UINT64_MAX,
    };
    uint64_t now = now_ms();
    if (options->since != NULL) Q_TRY(when_parse(options->since, now, &messages->since_ms));
    if (options->until != NULL) Q_TRY(when_parse(options->until, now, &messages->until_ms));
    if (options->tags.count > QBATCH_TAGS_MAX)
        return Q_FAIL(Q_INVALID, .what = q_text("more than %u tags", QBATCH_TAGS_MAX));
    for (unsigned i = 0; i < options->tags.count; i++)
        messages->filter.tags[i] = q_bytes_from_text(options->tags.values[i]);
    messages->filter.tag_count = options->tags.count;
    if (options->key != NULL) messages->key_hash = ql_hash(options->key, strlen(options->key));
    if (options->id != NULL) {
        messages->by_id = true;
        if (qbatch_id_parse(options->id, &messages->id) != Q_OK)
            return Q_FAIL(
                Q_INVALID, .what = q_text("'%s' is no id of a message", options->id),
                .hint = "an id is written as 20260111T041502.113Z-9f3c01ab22cd-1");
        uint64_t ms = messages->id.time_ms;
        messages->id_since_ms = q_max_u64(messages->since_ms, ms - q_min_u64(ms, CLOCKS_APART_MS));
    }
    enum q_err err =
        qlog_cursor_open(directory, "message", (qlog_position){ 0 }, &messages->cursor);
    if (err == Q_NOT_FOUND)
        return Q_FAIL(
            Q_NOT_FOUND, .path = directory, .what = "there is no message log here, so no messages",
            .hint = "it is a log of a program's own: qlog dump DIR");
    bool narrow = subject != NULL || options->key != NULL || messages->since_ms > 0 ||
                  messages->id_since_ms > 0;
    if (err == Q_OK && narrow) err = find_places(messages, directory);
    if (err != Q_OK) messages_close(messages);
    return err;
}

static enum q_err
find_places(struct messages *messages, const char *directory)
{
    struct ql_home *home;
    Q_TRY(ql_home_open_to_read(directory, NULL, &home));
    struct ql_places_wanted wanted = {
        .since_ms = q_max_u64(messages->since_ms, messages->id_since_ms),
        .one_subject = messages->subject != NULL,
        .one_key = messages->options.key != NULL,
        .key_hash = messages->key_hash,
        .from = messages->options.from,
        .to = messages->options.to,
    };
    bool store = home->log_count == 2 && strcmp(home->logs[1].name, "action") == 0;
    const struct ql_super_log *actions = &home->super.logs[1];
    enum q_err err = Q_NOT_FOUND;
    if (store) {
        uint64_t from = actions->replay < actions->first ? 0 : actions->replay;
        err = names_learn_all(&messages->names, directory, from);
    }
    if (err == Q_OK && wanted.one_subject)
        err = names_find_subject(
            &messages->names, q_bytes_from_text(messages->subject), &wanted.subject_id);
    messages->subject_met = err == Q_OK;
    /* Of a subject that has no name there, everything has to be read. */
    if (err == Q_OK) err = ql_places_find(home, &wanted, &messages->places);
    messages->indexed = err == Q_OK;
    if (messages->indexed && messages->places.unindexed > 0)
        (void)fprintf(
            stderr, "qlog: %u of %u segments have no good index file, and are read\n",
            messages->places.unindexed, messages->places.segments);
    (void)ql_home_close(home);
    return err == Q_NOT_FOUND ? Q_OK : err;
}

void
messages_close(struct messages *messages)
{
    qlog_cursor_close(messages->cursor);
    names_fini(&messages->names);
    ql_places_fini(&messages->places);
    free(messages->scratch);
    messages->scratch = NULL;
    messages->cursor = NULL;
}

enum q_err
messages_next(
    struct messages *messages, struct message *ret_message, struct qlog_damage *ret_damage)
{
    for (;;) {
        if (messages->options.limit > 0 && messages->given >= messages->options.limit) return Q_END;
        if (!messages->in_batch) {
            enum q_err err = next_batch(messages, ret_damage);
            bool before =
                err == Q_END && messages->given == 0 && messages->id_since_ms > messages->since_ms;
            if (before) err = look_before(messages);
            if (before && err == Q_OK) continue;
            if (err != Q_OK) return err;
        }
        struct message *message = ret_message;
        enum q_err err = qbatch_walk_next(&messages->walk, false, &message->view);
        if (err != Q_OK) messages->in_batch = false;
        if (err == Q_END) continue;
        if (err != Q_OK) return batch_damage(messages, ret_damage, "a batch that does not decode");
        message->batch = &messages->batch;
        message->sequence = messages->batch.first_sequence + message->view.index;
        message->store_ms = messages->batch.store_time_ms;
        message->frame = messages->record.frame;
        message->record = messages->record.index;
        message->generation = messages->record.generation;
        message->subject = names_of(
            &messages->names, (struct name_key){ NAME_SUBJECT, messages->batch.subject_id, 0 });
        if (!message_is_wanted(messages, message)) continue;
        messages->given++;
        if (messages->by_id) messages->options.limit = 1;
        return Q_OK;
    }
}

/* The id is nowhere from its time on. */
static enum q_err
look_before(struct messages *messages)
{
    messages->until_ms = q_min_u64(messages->until_ms, messages->id_since_ms);
    messages->id_since_ms = 0;
    messages->place = 0;
    ql_places_fini(&messages->places);
    qlog_cursor_close(messages->cursor);
    messages->cursor = NULL;
    Q_TRY(
        qlog_cursor_open(messages->directory, "message", (qlog_position){ 0 }, &messages->cursor));
    return find_places(messages, messages->directory);
}

static enum q_err
next_record(struct messages *messages, struct qlog_damage *ret_damage)
{
    for (;;) {
        bool begun = !messages->indexed || messages->place > 0;
        enum q_err err = Q_END;
        if (begun) err = qlog_cursor_next(messages->cursor, &messages->record, ret_damage);
        if (err != Q_END || !messages->indexed) return err;
        if (messages->place == messages->places.count) return Q_END;
        const struct ql_place_range *place = &messages->places.places[messages->place++];
        qlog_cursor_range(
            messages->cursor, (qlog_position){ place->from }, (qlog_position){ place->to });
    }
}

/* The next batch of which something may be wanted. */
static enum q_err
next_batch(struct messages *messages, struct qlog_damage *ret_damage)
{
    for (;;) {
        Q_TRY(next_record(messages, ret_damage));
        const struct qlog_record *record = &messages->record;
        enum q_err err = names_learn(&messages->names, record);
        if (err == Q_OK && record->kind != QL_RECORD_BATCH) continue;
        if (err == Q_OK) err = qbatch_open(record->bytes, &messages->batch);
        if (err == Q_E_NOMEM) return err;
        if (err != Q_OK) return batch_damage(messages, ret_damage, "a record that does not decode");
        bool of_subject = batch_is_of_subject(messages);
        /* Store times never go backwards. */
        if (messages->batch.store_time_ms >= messages->until_ms) return Q_END;
        if (!of_subject || !batch_is_wanted(messages)) continue;
        err = begin_batch(messages, ret_damage);
        if (err != Q_GONE) return err;
    }
}

static bool
batch_is_of_subject(struct messages *messages)
{
    if (messages->subject == NULL) return true;
    struct q_bytes name = names_of(
        &messages->names, (struct name_key){ NAME_SUBJECT, messages->batch.subject_id, 0 });
    bool equal = q_bytes_equal(name, q_bytes_from_text(messages->subject));
    messages->subject_met = messages->subject_met || equal;
    return equal;
}

static bool
batch_is_wanted(struct messages *messages)
{
    const struct qbatch *batch = &messages->batch;
    if (batch->first_sequence > messages->options.to) return false;
    if (batch->first_sequence + batch->message_count <= messages->options.from) return false;
    if (batch->store_time_ms < q_max_u64(messages->since_ms, messages->id_since_ms)) return false;
    if (messages->options.key != NULL && !batch_has_key(messages)) return false;
    messages->mask = qbatch_filter_mask(batch, &messages->filter);
    return !messages->mask.nothing;
}

static bool
batch_has_key(const struct messages *messages)
{
    const struct qbatch *batch = &messages->batch;
    for (uint32_t i = 0; i < batch->key_count; i++) {
        const uint8_t *key = batch->envelope + batch->keys_at + (size_t)i * QBATCH_KEY_SIZE;
        if (q_load_le64(key + 8) == messages->key_hash) return true;
    }
    return false;
}

/* Q_GONE: the writer has dropped it meanwhile. */
static enum q_err
begin_batch(struct messages *messages, struct qlog_damage *ret_damage)
{
    const struct qbatch *batch = &messages->batch;
    const uint8_t *payload = messages->record.payload.data;
    if (qbatch_check_payload(batch, payload) != Q_OK) {
        Q_TRY(qlog_cursor_check(messages->cursor, messages->record.frame));
        return batch_damage(messages, ret_damage, "a batch with a damaged payload");
    }
    if (batch->codec != QBATCH_CODEC_NONE && messages->scratch_size < batch->content_length) {
        uint8_t *scratch = realloc(messages->scratch, batch->content_length);
        if (scratch == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a batch's content");
        messages->scratch = scratch;
        messages->scratch_size = batch->content_length;
    }
    struct q_bytes content;
    if (qbatch_content(batch, payload, messages->scratch, &content) != Q_OK)
        return batch_damage(messages, ret_damage, "a batch that does not decompress");
    qbatch_walk_start(&messages->walk, batch, content);
    messages->in_batch = true;
    return Q_OK;
}

static enum q_err
batch_damage(struct messages *messages, struct qlog_damage *ret_damage, const char *what)
{
    const struct qlog_record *record = &messages->record;
    *ret_damage = (struct qlog_damage){
        .from = record->frame.value,
        .to = record->frame.value + record->frame_size,
        .what = what,
    };
    return Q_FAIL(Q_E_CORRUPT, .position = (int64_t)record->frame.value, .what = what);
}

static bool
message_is_wanted(const struct messages *messages, const struct message *message)
{
    if (message->sequence < messages->options.from || message->sequence > messages->options.to)
        return false;
    const struct qbatch_id *id = &message->view.id;
    if (messages->by_id &&
        (id->time_ms != messages->id.time_ms || id->producer != messages->id.producer ||
         id->counter != messages->id.counter))
        return false;
    if (!qbatch_mask_passes(&messages->mask, message->view.entry.tags)) return false;
    if (messages->options.key == NULL) return true;
    struct q_bytes at = message->view.properties;
    struct q_bytes name;
    struct q_bytes value;
    while (qbatch_property_next(&at, &name, &value) == Q_OK)
        if (q_bytes_equal(name, q_bytes_from_text(QBATCH_PROPERTY_KEY)) &&
            q_bytes_equal(value, q_bytes_from_text(messages->options.key)))
            return true;
    return false;
}

void
message_print_json(const struct message *message, bool body)
{
    struct json json = { 0 };
    char id[QBATCH_ID_TEXT_SIZE];
    json_open(&json, NULL, '{');
    json_bytes(&json, "subject", message->subject);
    json_number(&json, "sequence", message->sequence);
    json_text(&json, "id", q_bytes_from_text(qbatch_id_format(&message->view.id, id)));
    json_time(&json, "stored", message->store_ms);
    json_number(&json, "position", message->frame.value);
    json_number(&json, "index", message->record);
    json_number(&json, "message", message->view.index);
    json_open(&json, "tags", '[');
    for (uint32_t i = 0; i < message->batch->tag_count; i++)
        if (message->view.entry.tags >> i & 1)
            json_text(&json, NULL, qbatch_tag_at(message->batch, i));
    json_close(&json, ']');
    json_open(&json, "properties", '[');
    struct q_bytes at = message->view.properties;
    struct q_bytes name;
    struct q_bytes value;
    while (qbatch_property_next(&at, &name, &value) == Q_OK) {
        json_open(&json, NULL, '{');
        json_bytes(&json, "name", name);
        json_bytes(&json, "value", value);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_number(&json, "size", message->view.body.size);
    if (body) json_bytes(&json, "body", message->view.body);
    json_close(&json, '}');
}
