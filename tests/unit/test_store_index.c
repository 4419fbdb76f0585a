#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "log/index_scan.h"
#include "look/check.h"
#include "store/store.h"
#include "store_fixture.h"

enum {
    SUBJECTS = 7,
    KEYS = 9,
    ROUNDS = 400
};

static struct store_fixture fixture;

static void
setup(void)
{
    fixture_open(&fixture);
}

static void
teardown(void)
{
    fixture_close(&fixture);
}

TestSuite(store_index, .init = setup, .fini = teardown, .timeout = 120);

/* Over several segments, with seconds between. */
static void
publish_some(unsigned rounds)
{
    static char body[150];
    memset(body, 'x', sizeof(body) - 1);
    for (unsigned i = 0; i < rounds; i++) {
        char subject[16];
        (void)snprintf(fixture.key, sizeof(fixture.key), "k%u", i % KEYS);
        (void)snprintf(subject, sizeof(subject), i % 3 == 0 ? "orders" : "s%u", i % SUBJECTS);
        cr_assert_eq(fixture_publish(&fixture, subject, body, NULL, NULL), Q_OK);
        q_clock_manual_advance_ns(&fixture.clock, 100 * (uint64_t)Q_NS_PER_MS);
    }
    fixture_settle(&fixture);
}

/* All that is to become a file has. */
static void
await_files(void)
{
    const struct ql_index_files *files = &fixture.store->index.files;
    while (files->cut_count > 0 || files->step != QL_INDEX_IDLE) {
        q_clock_manual_advance_ns(&fixture.clock, 100 * (uint64_t)Q_NS_PER_MS);
        fixture_settle(&fixture);
    }
}

/* Paths of index files. Count. */
static unsigned
index_files(char paths[][128], unsigned max)
{
    char folder[100];
    (void)snprintf(folder, sizeof(folder), "%s/message", fixture.directory);
    DIR *directory = opendir(folder);
    cr_assert_not_null(directory);
    unsigned count = 0;
    const struct dirent *entry;
    while ((entry = readdir(directory)) != NULL && count < max)
        if (strncmp(entry->d_name, "index-", 6) == 0)
            (void)snprintf(paths[count++], 128, "%s/%.20s", folder, entry->d_name);
    (void)closedir(directory);
    return count;
}

static void
remove_index_files(void)
{
    char paths[64][128];
    unsigned count = index_files(paths, 64);
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(remove(paths[i]), 0);
}

/* What can't be told for a moment is asked for again. */
static enum q_err
entry_of(struct ql_subject *subject, uint64_t sequence, struct ql_entry *ret_entry)
{
    for (;;) {
        enum q_err err = ql_index_entry(&fixture.store->index, subject, sequence, ret_entry);
        if (err != Q_E_NOT_NOW) return err;
        fixture_settle(&fixture);
    }
}

/* All look-ups, as one number. */
static uint64_t
look_up_all(void)
{
    struct ql_index *index = &fixture.store->index;
    uint64_t hash = 0;
    for (uint32_t i = 0; i < index->count; i++) {
        struct ql_subject *subject = index->subjects[i];
        /* Forward, and from the other end, so that no hint is of use. */
        for (uint64_t j = 0; j < 2 * subject->next_sequence; j++) {
            uint64_t sequence = j % 2 == 0 ? j / 2 : subject->next_sequence - 1 - j / 2;
            struct ql_entry entry;
            cr_assert_eq(entry_of(subject, sequence, &entry), Q_OK);
            cr_assert_leq(entry.first_sequence, sequence);
            cr_assert_gt(ql_entry_end(&entry), sequence);
            hash = ql_hash(&(uint64_t[]){ hash, entry.frame + entry.envelope_at }, 16);
        }
        struct ql_entry entry;
        cr_assert_eq(ql_index_entry(index, subject, subject->next_sequence, &entry), Q_NOT_FOUND);
    }
    return hash;
}

/* How many batches have the key. */
static uint64_t
keys_of_view(struct ql_index_view *view, uint64_t hash)
{
    uint32_t at;
    uint64_t count = 0;
    uint32_t last = 0;
    cr_assert_eq(ql_index_view_find_key(view, hash, &at), Q_OK);
    for (; at < view->header.key_count; at++) {
        struct ql_index_key key;
        struct ql_index_subject subject;
        cr_assert_eq(ql_index_view_key(view, at, &key), Q_OK);
        if (key.hash != hash) break;
        cr_assert(count == 0 || key.entry > last);
        cr_assert_eq(ql_index_view_subject_of(view, key.entry, &subject), Q_OK);
        cr_assert_lt(key.entry - subject.first, subject.count);
        last = key.entry;
        count++;
    }
    return count;
}

/* What is derived may be deleted, and comes again. */
Test(store_index, files_are_derived)
{
    publish_some(ROUNDS);
    fixture_reopen(&fixture);
    cr_assert_gt(fixture.store->index.files.count, 3);
    uint64_t state = ql_store_state_hash(fixture.store);
    uint64_t found = look_up_all();
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    remove_index_files();
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
    cr_assert_eq(ql_store_state_hash(fixture.store), state);
    cr_assert_eq(look_up_all(), found);
    cr_assert_gt(fixture.store->index.files.count, 3, "made again");
    fixture_crash(&fixture);
    cr_assert_eq(look_up_all(), found);
    cr_assert_eq(fixture.events[QLOG_EVENT_INDEX_DROPPED], 0);
    cr_assert_eq(fixture.events[QLOG_EVENT_INDEX_FAILED], 0);
}

/* However often files were made on the way, a segment's last one says the same. */
Test(store_index, rebuilt_files_are_identical)
{
    publish_some(ROUNDS);
    fixture_crash(&fixture);
    publish_some(ROUNDS / 2);
    struct ql_index_files *files = &fixture.store->index.files;
    struct ql_log *log = fixture.store->messages;
    cr_assert_gt(files->count, 5);
    for (uint32_t i = 0; i < files->count; i++) {
        struct ql_index_file *file = files->files[i];
        cr_assert_eq(ql_index_files_view(files, file), Q_OK);
        cr_assert_eq(ql_index_view_check(&file->view), Q_OK);
        const struct ql_index_header *header = &file->view.header;
        const struct ql_segment *segment = ql_segment_set_find(&log->segments, header->base);
        struct ql_index_build build;
        cr_assert_eq(
            ql_index_rebuild(log->env, log->name, &log->segments, segment, header->end, &build),
            Q_OK);
        build.header.created_ms = header->created_ms;
        ql_index_header_encode(&build.header, build.file);
        cr_assert_eq(build.file_size, file->view.layout.file_size);
        cr_assert_eq(memcmp(build.file, file->view.file, build.file_size), 0);
        free(build.file);
    }
}

/* Each batch is found by its key: in files, where they are sorted, or among those that wait for one. */
Test(store_index, keys)
{
    publish_some(ROUNDS);
    struct ql_index *index = &fixture.store->index;
    for (unsigned i = 0; i < KEYS; i++) {
        char text[8];
        (void)snprintf(text, sizeof(text), "k%u", i);
        uint64_t hash = ql_hash(text, strlen(text));
        uint64_t found = 0;
        for (uint32_t j = 0; j < index->files.count; j++) {
            struct ql_index_file *file = index->files.files[j];
            cr_assert_eq(ql_index_files_view(&index->files, file), Q_OK);
            found += keys_of_view(&file->view, hash);
        }
        const struct ql_key_rows *keys = &index->entries.keys;
        for (uint64_t row = keys->floor; row < keys->end; row++)
            found +=
                keys->chunks[row / QL_KEY_ROWS_CHUNK - keys->chunk_first][row % QL_KEY_ROWS_CHUNK]
                    .hash == hash;
        cr_assert_eq(found, ROUNDS / KEYS + (i < ROUNDS % KEYS), "%s", text);
    }
    uint32_t at;
    struct ql_index_view *view = &index->files.files[0]->view;
    cr_assert_eq(ql_index_view_find_key(view, UINT64_MAX, &at), Q_OK);
    cr_assert_eq(at, view->header.key_count);
}

/* Entries are in memory only as long as no file has them. */
Test(store_index, memory_does_not_grow)
{
    publish_some(ROUNDS);
    const struct ql_entries *entries = &fixture.store->index.entries;
    cr_assert_lt(entries->end - entries->floor, ROUNDS / 4);
}

/* Damage in an index file is found, the file is made again, and nothing else is different. */
Test(store_index, damaged_files_are_made_again)
{
    publish_some(ROUNDS);
    uint64_t found = look_up_all();
    for (unsigned at = 0; at < 3; at++) {
        static const long places[] = { 60, 4096 + 100, -4090 };
        char paths[64][128];
        unsigned count = index_files(paths, 64);
        cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
        for (unsigned i = 0; i < count; i += 2) {
            FILE *file = fopen(paths[i], "r+b");
            cr_assert_not_null(file);
            (void)fseek(file, places[at], places[at] < 0 ? SEEK_END : SEEK_SET);
            (void)fwrite("damage", 1, 6, file);
            (void)fclose(file);
        }
        cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
        cr_assert_eq(look_up_all(), found);
        cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
    }
    cr_assert_gt(fixture.events[QLOG_EVENT_INDEX_DROPPED], 0);
}

static void
note_finding(void *context, uint64_t position, const char *text)
{
    (void)position;
    (void)text;
    ++*(unsigned *)context;
}

static unsigned
verify_index(bool deep, unsigned jobs)
{
    unsigned findings = 0;
    struct ql_home *home;
    cr_assert_eq(ql_home_open_to_read(fixture.directory, NULL, &home), Q_OK);
    struct ql_check check = {
        .home = home,
        .live = ql_home_is_live(&home->env),
        .deep = deep,
        .jobs = jobs,
        .context = &findings,
        .on_index = note_finding,
    };
    cr_assert_eq(ql_check_run(&check), Q_OK);
    cr_assert_eq(ql_home_close(home), Q_OK);
    return findings;
}

/* Tools find damaged files, and files that are whole and say something else. */
Test(store_index, files_are_held_against_segments)
{
    publish_some(ROUNDS);
    cr_assert_eq(verify_index(true, 1), 0, "beside a running store");
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    cr_assert_eq(verify_index(true, 1), 0, "of a stopped one");
    char paths[64][128];
    cr_assert_gt(index_files(paths, 64), 3);
    for (unsigned i = 0; i < 2; i++) {
        FILE *file = fopen(paths[i], "r+b");
        cr_assert_not_null(file);
        if (i == 0) {
            (void)fseek(file, 4096 + 100, SEEK_SET);
            (void)fwrite("damage", 1, 6, file);
        } else {
            /* Another generation, and the right hash. */
            uint8_t block[QL_BLOCK];
            struct ql_index_header header;
            cr_assert_eq(fread(block, sizeof(block), 1, file), 1);
            cr_assert_eq(ql_index_header_decode(block, &header), QL_BLOCK_GOOD);
            header.generation++;
            ql_index_header_encode(&header, block);
            (void)fseek(file, 0, SEEK_SET);
            (void)fwrite(block, sizeof(block), 1, file);
        }
        (void)fclose(file);
    }
    cr_assert_eq(verify_index(false, 1), 1);
    cr_assert_eq(verify_index(true, 1), 2);
    cr_assert_eq(verify_index(true, 3), 2);
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
}

/* Bytes of the first page, which is looked at again. */
static void
damage(struct ql_index_file *file)
{
    char path[128];
    memset(file->view.checked, 0, file->view.layout.page_count / 8 + 1);
    (void)snprintf(path, sizeof(path), "%s/message/index-%06u", fixture.directory, file->number);
    FILE *handle = fopen(path, "r+b");
    cr_assert_not_null(handle);
    (void)fseek(handle, QL_INDEX_HEADER_SIZE + 17, SEEK_SET);
    (void)fwrite("damage", 1, 6, handle);
    (void)fclose(handle);
}

/* While the store runs, too: a page is checked when it is first looked at. */
Test(store_index, damage_is_met_by_a_look_up)
{
    publish_some(ROUNDS);
    await_files();
    uint64_t found = look_up_all();
    struct ql_index_files *files = &fixture.store->index.files;
    for (uint32_t i = 0; i < files->count; i++) {
        struct ql_index_file *file = files->files[i];
        damage(file);
    }
    cr_assert_eq(look_up_all(), found);
    cr_assert_gt(fixture.events[QLOG_EVENT_INDEX_DROPPED], 3);
    publish_some(ROUNDS / 4);
    fixture_reopen(&fixture);
    (void)look_up_all();
}

/* Nobody waits for a damaged file but who wants what is in it, and who does is given all of it. The file
 * that is made again is on the disk, and says what the first one said. */
Test(store_index, a_damaged_file_is_mended_beside)
{
    publish_some(ROUNDS);
    await_files();
    struct ql_index_files *files = &fixture.store->index.files;
    cr_assert(files->beside);
    struct ql_index_file *file = files->files[0];
    struct ql_index_header header = file->view.header;
    uint64_t size = file->view.layout.file_size;
    cr_assert_eq(ql_index_files_view(files, file), Q_OK);
    uint8_t *first = malloc(size);
    cr_assert_not_null(first);
    memcpy(first, file->view.file, size);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    damage(file);

    struct ql_subject *subject;
    struct ql_entry entry;
    cr_assert_eq(ql_index_find(&fixture.store->index, q_bytes_from_text("orders"), &subject), Q_OK);
    cr_assert_eq(ql_index_entry(&fixture.store->index, subject, 0, &entry), Q_E_NOT_NOW);
    cr_assert_eq(fixture_publish(&fixture, "orders", "x", NULL, NULL), Q_OK);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 1, 0);
    cr_assert_eq(pulled.err, Q_OK, "%s", q_err_name(pulled.err));
    cr_assert_eq(pulled.run_count, 1);
    cr_assert_eq(pulled.runs[0].sequence, 0);
    cr_assert_eq(fixture.store->counters.expired, 0);

    file = ql_index_files_of(files, header.base);
    cr_assert_null(file->memory);
    cr_assert_eq(file->view.layout.file_size, size);
    cr_assert_eq(ql_index_view_check(&file->view), Q_OK);
    header.created_ms = file->view.header.created_ms;
    ql_index_header_encode(&header, first);
    cr_assert_eq(memcmp(first, file->view.file, size), 0);
    free(first);
    cr_assert_eq(fixture.events[QLOG_EVENT_INDEX_DROPPED], 1);
    cr_assert_eq(fixture.events[QLOG_EVENT_INDEX_FAILED], 0);
    uint64_t found = look_up_all();
    fixture_reopen(&fixture);
    cr_assert_eq(look_up_all(), found);
    cr_assert_eq(fixture.events[QLOG_EVENT_INDEX_DROPPED], 1);
}

/* A segment that can't be read keeps its file: it is said so, and is tried again later. */
Test(store_index, a_file_that_can_not_be_mended)
{
    publish_some(ROUNDS);
    await_files();
    struct ql_index_files *files = &fixture.store->index.files;
    cr_assert(files->beside);
    struct ql_index_file *file = files->files[0];
    uint64_t base = file->view.header.base;
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    damage(file);
    char path[160];
    char away[164];
    (void)snprintf(
        path, sizeof(path), "%s/message/segment-%06u", fixture.directory,
        ql_segment_set_find(&fixture.store->messages->segments, base)->number);
    (void)snprintf(away, sizeof(away), "%s.off", path);
    cr_assert_eq(rename(path, away), 0);
    struct ql_subject *subject;
    struct ql_entry entry;
    cr_assert_eq(ql_index_find(&fixture.store->index, q_bytes_from_text("orders"), &subject), Q_OK);
    cr_assert_eq(entry_of(subject, 0, &entry), Q_E_IO);
    cr_assert_eq(fixture.events[QLOG_EVENT_INDEX_FAILED], 1);
    cr_assert_eq(ql_index_files_of(files, base), file, "it stays");
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 1, 0).err, Q_E_IO);
    cr_assert_eq(rename(away, path), 0);
    q_clock_manual_advance_ns(&fixture.clock, 11 * (uint64_t)Q_NS_PER_S);
    cr_assert_eq(entry_of(subject, 0, &entry), Q_OK);
    cr_assert_eq(entry.first_sequence, 0);
}

/* Pages that the disk does not give are made again like damaged ones. */
Test(store_index, pages_that_are_not_there)
{
    publish_some(ROUNDS);
    await_files();
    uint64_t found = look_up_all();
    struct ql_index_files *files = &fixture.store->index.files;
    for (uint32_t i = 0; i < files->count; i++) {
        struct ql_index_file *file = files->files[i];
        memset(file->view.checked, 0, file->view.layout.page_count / 8 + 1);
        char path[128];
        (void)snprintf(
            path, sizeof(path), "%s/message/index-%06u", fixture.directory, file->number);
        cr_assert_eq(truncate(path, QL_INDEX_HEADER_SIZE), 0);
    }
    cr_assert_eq(look_up_all(), found);
    cr_assert_gt(fixture.events[QLOG_EVENT_INDEX_DROPPED], 3);
}

static const struct qlog_io_table *real_table;

/* No such file: no sector is to blame, and the next try may do better. */
static void
submit_reads_of_nothing(struct qlog_io *io, struct qlog_io_op *op)
{
    if (op->kind == QLOG_IO_READ) op->file = -1;
    real_table->submit(io, op);
}

/* Reads under way, and who waits for them. */
static struct failing {
    struct qlog_io_op *op;
    void (*done)(struct qlog_io_op *op);
} failing[64];

static struct failing *
failing_of(const struct qlog_io_op *op)
{
    for (unsigned i = 0; i < sizeof(failing) / sizeof(failing[0]); i++)
        if (failing[i].op == op) return &failing[i];
    cr_assert_fail("more reads than thought of");
    return NULL;
}

static void
done_without_reading(struct qlog_io_op *op)
{
    struct failing *mine = failing_of(op);
    mine->op = NULL;
    op->done = mine->done;
    op->result = -EIO;
    op->done(op);
}

/* A sector that can't be read, for now. */
static void
submit_reads_that_fail(struct qlog_io *io, struct qlog_io_op *op)
{
    if (op->kind == QLOG_IO_READ) {
        *failing_of(NULL) = (struct failing){ op, op->done };
        op->done = done_without_reading;
    }
    real_table->submit(io, op);
}

/* What can't be made again now is asked for again: no message behind it may be passed over. */
static void
mend_later(void (*submit)(struct qlog_io *io, struct qlog_io_op *op))
{
    publish_some(ROUNDS);
    uint64_t found = look_up_all();
    struct ql_index *index = &fixture.store->index;
    struct ql_index_file *file = index->files.files[0];
    damage(file);

    struct qlog_io *io = fixture.store->home->env.io;
    real_table = io->table;
    struct qlog_io_table table = *io->table;
    table.submit = submit;
    io->table = &table;
    struct ql_subject *subject = ql_index_get(index, 0);
    struct ql_entry entry;
    index->files.beside = false; /* as at a start: through the store's own way to the disk */
    for (unsigned i = 0; i < 3; i++)
        cr_assert_lt(ql_index_entry(index, subject, 0, &entry), Q_OK);
    io->table = real_table;
    cr_assert_eq(look_up_all(), found);
}

Test(store_index, damage_that_can_not_be_mended_yet)
{
    mend_later(submit_reads_of_nothing);
}

Test(store_index, damage_on_a_disk_that_is_away)
{
    mend_later(submit_reads_that_fail);
}

static int
open_no_index(struct qlog_io *io, const char *path, unsigned flags)
{
    return strstr(path, "/index-") != NULL ? -EMFILE : real_table->open(io, path, flags);
}

static void
forget_maps(void)
{
    struct ql_index_files *files = &fixture.store->index.files;
    struct qlog_io *io = files->log->env->io;
    for (uint32_t i = 0; i < files->count; i++) {
        struct ql_index_file *file = files->files[i];
        if (file->view.file == NULL || file->memory != NULL) continue;
        io->table->unmap(io, file->view.file, file->view.layout.file_size);
        file->view.file = NULL;
    }
}

/* Too many open files is no damage: it is said by its name, nothing is thrown away, and it ends. */
Test(store_index, too_many_open_files)
{
    publish_some(ROUNDS);
    forget_maps();
    struct qlog_io *io = fixture.store->home->env.io;
    real_table = io->table;
    struct qlog_io_table table = *io->table;
    table.open = open_no_index;
    io->table = &table;
    struct ql_entry entry;
    struct ql_subject *subject = ql_index_get(&fixture.store->index, 0);
    cr_assert_eq(ql_index_entry(&fixture.store->index, subject, 0, &entry), Q_E_FILES);
    /* Files that can't be written are told of, and tried again. */
    publish_some(ROUNDS);
    cr_assert_gt(fixture.events[QLOG_EVENT_INDEX_FAILED], 0);
    io->table = real_table;
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
    uint64_t found = look_up_all();
    q_clock_manual_advance_ns(&fixture.clock, 20 * (uint64_t)Q_NS_PER_S);
    publish_some(10);
    fixture_reopen(&fixture);
    cr_assert_neq(look_up_all(), found, "ten more");
}

/* At a start, too: the next one finds every file where it was. */
Test(store_index, too_many_open_files_at_start)
{
    publish_some(ROUNDS);
    uint64_t found = look_up_all();
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    fixture.store = NULL;
    char before[64][128];
    unsigned count = index_files(before, 64);
    struct qlog_io *io;
    cr_assert_eq(qlog_io_plain_new(&io), 0);
    real_table = io->table;
    struct qlog_io_table table = *io->table;
    table.open = open_no_index;
    io->table = &table;
    fixture.options.log.io = io;
    struct qlog_store *store;
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &store), Q_E_FILES);
    io->table = real_table;
    io->table->destroy(io);
    fixture.options.log.io = NULL;
    cr_assert_eq(index_files(before, 64), count);
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
    cr_assert_eq(look_up_all(), found);
    cr_assert_eq(fixture.events[QLOG_EVENT_INDEX_DROPPED], 0);
}

static unsigned maps_refused;

static const uint8_t *
map_refused(struct qlog_io *io, int file, uint64_t size, int *ret_error)
{
    (void)io;
    (void)file;
    (void)size;
    maps_refused++;
    *ret_error = -ENOMEM;
    return NULL;
}

/* Entries do not pile up behind a file that can't be mapped: it is said, and made from the segment. */
Test(store_index, the_file_before_can_not_be_mapped)
{
    publish_some(ROUNDS);
    forget_maps();
    struct qlog_io *io = fixture.store->home->env.io;
    real_table = io->table;
    struct qlog_io_table table = *io->table;
    table.map = map_refused;
    io->table = &table;
    for (unsigned i = 0; i < 4; i++) {
        publish_some(ROUNDS / 10);
        q_clock_manual_advance_ns(&fixture.clock, 11 * (uint64_t)Q_NS_PER_S);
        fixture_settle(&fixture);
    }
    cr_assert_gt(maps_refused, 1);
    cr_assert_gt(fixture.events[QLOG_EVENT_INDEX_FAILED], 0);
    io->table = real_table;
    for (unsigned i = 0; i < 4; i++) {
        q_clock_manual_advance_ns(&fixture.clock, 11 * (uint64_t)Q_NS_PER_S);
        publish_some(10);
    }
    const struct ql_entries *entries = &fixture.store->index.entries;
    cr_assert_lt(entries->end - entries->floor, ROUNDS / 4);
    (void)look_up_all();
}

/* Whoever removes an index file while the store runs takes no message along. */
Test(store_index, a_file_is_removed_while_it_runs)
{
    publish_some(ROUNDS);
    uint64_t found = look_up_all();
    forget_maps();
    remove_index_files();
    cr_assert_eq(look_up_all(), found);
    cr_assert_gt(fixture.events[QLOG_EVENT_INDEX_DROPPED], 0);
}

/* Files of segments that are gone are gone too, a few in a turn. */
Test(store_index, files_go_with_their_segments)
{
    publish_some(ROUNDS);
    struct qlog_trim trim = {
        .request = { .kind = QLOG_TRIM },
        .messages_before = { UINT64_MAX },
    };
    cr_assert_eq(fixture_run(&fixture, &trim.request), Q_OK);
    fixture_settle(&fixture);
    char paths[64][128];
    cr_assert_eq(fixture.store->index.files.doomed_count, 0);
    cr_assert_leq(index_files(paths, 64), 1);
}

/* A frame that rots behind its index is told when it is read, and not handed out. */
Test(store_index, rot_behind_the_index_is_told)
{
    publish_some(ROUNDS);
    fixture_reopen(&fixture);
    struct ql_subject *subject;
    cr_assert_eq(ql_index_find(&fixture.store->index, q_bytes_from_text("orders"), &subject), Q_OK);
    struct ql_entry entry;
    cr_assert_eq(ql_index_entry(&fixture.store->index, subject, 5, &entry), Q_OK);
    const struct ql_segment *segment =
        ql_segment_set_find(&fixture.store->messages->segments, entry.frame);
    char path[128];
    (void)snprintf(
        path, sizeof(path), "%s/message/segment-%06u", fixture.directory, segment->number);
    FILE *file = fopen(path, "r+b");
    cr_assert_not_null(file);
    (void)fseek(
        file, (long)ql_segment_offset(segment, entry.frame) + (long)entry.envelope_at + 50,
        SEEK_SET);
    (void)fwrite("damage", 1, 6, file);
    (void)fclose(file);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    /* A pull may end before it, with what is in memory already. */
    uint64_t received = 0;
    for (uint64_t last = 0; last < 6;) {
        struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 20, received);
        cr_assert_eq(pulled.err, Q_OK);
        for (uint32_t i = 0; i < pulled.run_count; i++) {
            const struct qlog_run *run = &pulled.runs[i];
            for (uint64_t j = 0; j < run->count; j++)
                cr_assert_neq(run->sequence + j, 5);
            received = run->pull_sequence + run->count;
            last = run->sequence + run->count - 1;
        }
    }
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 1);
}

/* From the frame on that is found, everything of that time or later is there. */
Test(store_index, times)
{
    uint64_t begin = fixture.clock.wall_ms;
    publish_some(ROUNDS);
    uint64_t before = 0;
    for (uint64_t ms = begin - 1000; ms < begin + ROUNDS * 100; ms += 700) {
        uint64_t position;
        cr_assert_eq(ql_index_time(&fixture.store->index, ms, &position), Q_OK);
        cr_assert_geq(position, before);
        before = position;
    }
    cr_assert_gt(before, fixture.store->messages->tail / 2);
    uint64_t position;
    cr_assert_eq(ql_index_time(&fixture.store->index, UINT64_MAX, &position), Q_OK);
    cr_assert_eq(position, fixture.store->messages->tail);
}

/* Of an earlier second nothing is given, however long ago that was. */
Test(store_index, times_apart)
{
    publish_some(ROUNDS);
    q_clock_manual_advance_ns(&fixture.clock, 3600 * (uint64_t)Q_NS_PER_S);
    uint64_t from = fixture.store->messages->tail;
    uint64_t ms = fixture.clock.wall_ms - 10;
    publish_some(ROUNDS);
    uint64_t position;
    cr_assert_eq(ql_index_time(&fixture.store->index, ms, &position), Q_OK);
    cr_assert_geq(position, from);
}

/* Take everything that is there, some of it without a word. */
static void
consume_some(const char *group)
{
    uint64_t session = fixture_join(&fixture, group, "c", NULL);
    uint64_t received = 0;
    for (;;) {
        struct pulled pulled = fixture_pull(&fixture, group, "c", session, 3, received);
        cr_assert_eq(pulled.err, Q_OK);
        if (pulled.run_count == 0) return;
        const struct qlog_run *run = &pulled.runs[0];
        received = run->pull_sequence + run->count;
        if (received % 5 != 0)
            cr_assert_eq(
                fixture_ack(&fixture, group, "c", session, run->pull_sequence, received - 1), Q_OK);
    }
}

static uint64_t
replay_of(unsigned log)
{
    return fixture.store->home->super.logs[log].replay;
}

/* What lies before the places that the superblock names is not read, and nothing is missing. */
Test(store_index, starts_go_on_from_statements)
{
    for (unsigned round = 0; round < 4; round++) {
        publish_some(ROUNDS / 2);
        consume_some("g");
        consume_some(round % 2 == 0 ? "even" : "odd");
        fixture_settle(&fixture);
        uint64_t state = ql_store_state_hash(fixture.store);
        uint64_t found = look_up_all();
        fixture_reopen(&fixture);
        cr_assert_eq(ql_store_state_hash(fixture.store), state);
        cr_assert_eq(look_up_all(), found);
    }
    uint64_t actions = replay_of(QL_LOG_ACTION);
    cr_assert_gt(actions, 0);
    cr_assert_gt(replay_of(QL_LOG_MESSAGE), 0);
    cr_assert_eq(fixture.store->replayed_actions, actions);
    /* The same without what is derived, and after a kill. */
    uint64_t found = look_up_all();
    fixture_crash(&fixture);
    uint64_t state = ql_store_state_hash(fixture.store);
    cr_assert_eq(look_up_all(), found);
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    remove_index_files();
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
    cr_assert_eq(ql_store_state_hash(fixture.store), state);
    cr_assert_eq(look_up_all(), found);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
    cr_assert_eq(fixture.events[QLOG_EVENT_VOID_ACTIONS], 0);
}

/* A minute after the last change everything is said. */
Test(store_index, statements_come_in_time)
{
    publish_some(10);
    fixture_settle(&fixture);
    q_clock_manual_advance_ns(&fixture.clock, 61 * (uint64_t)Q_NS_PER_S);
    fixture_settle(&fixture);
    q_clock_manual_advance_ns(&fixture.clock, (uint64_t)Q_NS_PER_S);
    fixture_settle(&fixture);
    cr_assert_eq(replay_of(QL_LOG_MESSAGE), fixture.store->messages->tail);
    uint64_t tail = fixture.store->actions->tail;
    q_clock_manual_advance_ns(&fixture.clock, 120 * (uint64_t)Q_NS_PER_S);
    fixture_settle(&fixture);
    uint64_t round = fixture.store->actions->tail - tail;
    q_clock_manual_advance_ns(&fixture.clock, 120 * (uint64_t)Q_NS_PER_S);
    fixture_settle(&fixture);
    cr_assert_eq(round, 0, "and then there is nothing more to say");
}

/* Sessions are not given twice, whatever of the action log is read. */
Test(store_index, sessions_go_on)
{
    uint64_t last = 0;
    for (unsigned i = 0; i < 60; i++) {
        uint64_t session = fixture_join(&fixture, "g", i % 2 == 0 ? "a" : "b", NULL);
        cr_assert_gt(session, last);
        last = session;
        if (i % 20 == 19) {
            q_clock_manual_advance_ns(&fixture.clock, 62 * (uint64_t)Q_NS_PER_S);
            fixture_settle(&fixture);
            fixture_reopen(&fixture);
        }
    }
}
