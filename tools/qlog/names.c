#include "names.h"

#include <stdlib.h>

#include "format/record.h"

struct name_entry {
    struct name_key key;
    struct q_bytes name;
    uint8_t *memory;
};

static enum q_err names_put(struct names *names, struct name_key key, struct q_bytes name);
static enum q_err name_set(struct name_entry *entry, struct q_bytes name);

void
names_fini(struct names *names)
{
    for (uint32_t i = 0; i < names->count; i++)
        free(names->entries[i].memory);
    free(names->entries);
    q_map_fini(&names->map);
    *names = (struct names){ 0 };
}

enum q_err
names_learn(struct names *names, const struct qlog_record *record)
{
    if (record->kind == QL_RECORD_SUBJECT) {
        struct ql_subject_record subject;
        Q_TRY(ql_subject_record_decode(record->bytes, &subject));
        return names_put(
            names, (struct name_key){ NAME_SUBJECT, subject.subject_id, 0 }, subject.name);
    }
    if (record->kind == QL_RECORD_GROUP) {
        struct ql_group_record group;
        Q_TRY(ql_group_record_decode(record->bytes, &group));
        Q_TRY(names_put(names, (struct name_key){ NAME_GROUP, group.group_id, 0 }, group.name));
        return names_put(
            names, (struct name_key){ NAME_GROUP_SUBJECT, group.group_id, 0 }, group.subject);
    }
    if (record->kind == QL_RECORD_JOIN) {
        struct ql_join_record join;
        Q_TRY(ql_join_record_decode(record->bytes, &join));
        return names_put(
            names, (struct name_key){ NAME_CONSUMER, join.group_id, join.consumer_id }, join.name);
    }
    if (record->kind == QL_RECORD_CONSUMER) {
        struct ql_consumer_record consumer;
        Q_TRY(ql_consumer_record_decode(record->bytes, &consumer));
        return names_put(
            names, (struct name_key){ NAME_CONSUMER, consumer.group_id, consumer.consumer_id },
            consumer.name);
    }
    return Q_OK;
}

enum q_err
names_learn_all(struct names *names, const char *directory, uint64_t from)
{
    struct qlog_cursor *cursor;
    enum q_err err = qlog_cursor_open(directory, "action", (qlog_position){ from }, &cursor);
    if (err != Q_OK) return err;
    do {
        struct qlog_record record;
        struct qlog_damage damage;
        err = qlog_cursor_next(cursor, &record, &damage);
        if (err == Q_OK) err = names_learn(names, &record);
    } while (err == Q_OK || err == Q_E_CORRUPT);
    qlog_cursor_close(cursor);
    return err == Q_END ? Q_OK : err;
}

enum q_err
names_find_subject(const struct names *names, struct q_bytes name, uint32_t *ret_id)
{
    for (uint32_t i = 0; i < names->count; i++) {
        const struct name_entry *entry = &names->entries[i];
        if (entry->key.kind != NAME_SUBJECT || !q_bytes_equal(entry->name, name)) continue;
        *ret_id = entry->key.id;
        return Q_OK;
    }
    return Q_NOT_FOUND;
}

/* Spread by odd constants: numbers that count up would stand in a row. */
static uint64_t
key_hash(struct name_key key)
{
    uint64_t both = (uint64_t)key.id << 32 | key.consumer;
    uint64_t hash = (both + (uint64_t)key.kind * 0xd6e8feb86659fd93u) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

static bool
key_equal(const void *key, uint32_t value, const void *context)
{
    const struct name_key *wanted = key;
    const struct name_key *there = &((const struct name_entry *)context)[value].key;
    return there->kind == wanted->kind && there->id == wanted->id &&
           there->consumer == wanted->consumer;
}

static enum q_err
names_put(struct names *names, struct name_key key, struct q_bytes name)
{
    uint32_t at;
    /* Names are told again and again, and a number that was never durable may be given anew. */
    if (q_map_get(&names->map, key_hash(key), key_equal, &key, names->entries, &at))
        return name_set(&names->entries[at], name);
    if (names->count == names->capacity) {
        uint32_t capacity = names->capacity == 0 ? 64 : names->capacity * 2;
        struct name_entry *entries = realloc(names->entries, capacity * sizeof(*entries));
        if (entries == NULL) return Q_FAIL(Q_E_NOMEM, .what = "table of names");
        names->entries = entries;
        names->capacity = capacity;
    }
    names->entries[names->count] = (struct name_entry){ .key = key };
    Q_TRY(q_map_put(&names->map, key_hash(key), names->count));
    return name_set(&names->entries[names->count++], name);
}

static enum q_err
name_set(struct name_entry *entry, struct q_bytes name)
{
    if (entry->memory != NULL && q_bytes_equal(entry->name, name)) return Q_OK;
    uint8_t *memory = malloc(name.size + 1);
    if (memory == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a name");
    memcpy(memory, name.data, name.size);
    free(entry->memory);
    entry->memory = memory;
    entry->name = q_bytes_from(memory, name.size);
    return Q_OK;
}

struct q_bytes
names_of(const struct names *names, struct name_key key)
{
    uint32_t at;
    if (q_map_get(&names->map, key_hash(key), key_equal, &key, names->entries, &at))
        return names->entries[at].name;
    return q_bytes_from_text(q_text("#%u", key.kind == NAME_CONSUMER ? key.consumer : key.id));
}
