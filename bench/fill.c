#include "fill.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qbatch/build.h>

enum {
    UNDER_WAY = 16,
    GROUP_EVERY = 1000
};

struct slot {
    struct qlog_publish publish;
    struct filling *filling;
    uint8_t *envelopes;
    uint64_t *firsts;
    struct q_bytes *subjects;
    char (*names)[FILL_NAME];
    bool busy;
};

struct filling {
    struct qlog_store *store;
    const struct fill *fill;
    uint8_t *envelope; /* of one batch, and its payload as often as a request has batches */
    uint32_t envelope_size;
    uint8_t *payloads;
    uint32_t payload_size;
    struct slot slots[UNDER_WAY];
    unsigned under_way;
    enum q_err err;
};

static enum q_err filling_init(
    struct filling *filling, struct qlog_store *store, const struct fill *fill);
static enum q_err filling_submit(struct filling *filling, struct slot *slot, uint64_t number);
static void filling_on_done(struct qlog_request *request, enum q_err err);
static enum q_err filling_join(struct filling *filling);
static void filling_fini(struct filling *filling);

struct q_bytes
fill_subject(uint32_t number, char out[FILL_NAME])
{
    int size = snprintf(out, FILL_NAME, "subject-%08u", number);
    return q_bytes_from(out, (size_t)size);
}

enum q_err
fill_store(struct qlog_store *store, const struct fill *fill)
{
    struct filling filling;
    Q_TRY(filling_init(&filling, store, fill));
    uint64_t batch = (uint64_t)fill->size * fill->count;
    uint64_t requests = fill->bytes / (batch * fill->batches) + 1;
    uint64_t number = 0;
    enum q_err err = Q_OK;
    while (err == Q_OK && (number < requests || filling.under_way > 0)) {
        for (unsigned i = 0; err == Q_OK && i < UNDER_WAY && number < requests; i++)
            if (!filling.slots[i].busy) err = filling_submit(&filling, &filling.slots[i], number++);
        if (err == Q_OK) err = qlog_store_turn(store);
        if (err == Q_OK) err = qlog_store_wait(store, 10 * Q_NS_PER_MS);
        if (err == Q_OK) err = filling.err;
    }
    if (err == Q_OK && fill->groups) err = filling_join(&filling);
    filling_fini(&filling);
    return err;
}

static enum q_err
filling_init(struct filling *filling, struct qlog_store *store, const struct fill *fill)
{
    *filling = (struct filling){ .store = store, .fill = fill };
    struct qbatch_builder_options options = { .messages_max = fill->count, .bytes_max = 4 << 20 };
    struct qbatch_builder *builder;
    Q_TRY(qbatch_builder_new(&options, &builder));
    uint8_t *body = calloc(1, fill->size);
    if (body == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a message");
    for (uint32_t i = 0; i < fill->size; i++)
        body[i] = (uint8_t)(i * 31);
    for (uint32_t i = 0; i < fill->count; i++) {
        struct qbatch_message message = {
            .body = q_bytes_from(body, fill->size),
            .time_ms = 1700000000000,
            .counter = i,
        };
        Q_TRY(qbatch_builder_add(builder, &message));
    }
    Q_TRY(qbatch_builder_close(builder, &filling->envelope_size, &filling->payload_size));
    filling->envelope = malloc(filling->envelope_size);
    filling->payloads = malloc((size_t)filling->payload_size * fill->batches);
    if (filling->envelope == NULL || filling->payloads == NULL)
        return Q_FAIL(Q_E_NOMEM, .what = "a batch");
    struct qbatch_request_place place = { .request_count = fill->batches };
    qbatch_builder_write(builder, &place, filling->envelope, filling->payloads);
    qbatch_builder_free(builder);
    free(body);
    for (uint32_t i = 1; i < fill->batches; i++)
        memcpy(
            filling->payloads + (size_t)i * filling->payload_size, filling->payloads,
            filling->payload_size);
    for (unsigned i = 0; i < UNDER_WAY; i++) {
        struct slot *slot = &filling->slots[i];
        slot->filling = filling;
        slot->envelopes = malloc((size_t)filling->envelope_size * fill->batches);
        slot->firsts = malloc(sizeof(*slot->firsts) * fill->batches);
        slot->subjects = malloc(sizeof(*slot->subjects) * fill->batches);
        slot->names = malloc(sizeof(*slot->names) * fill->batches);
        if (slot->envelopes == NULL || slot->firsts == NULL || slot->subjects == NULL ||
            slot->names == NULL)
            return Q_FAIL(Q_E_NOMEM, .what = "a request");
    }
    return Q_OK;
}

static void
filling_fini(struct filling *filling)
{
    for (unsigned i = 0; i < UNDER_WAY; i++) {
        free(filling->slots[i].envelopes);
        free(filling->slots[i].firsts);
        free(filling->slots[i].subjects);
        free(filling->slots[i].names);
    }
    free(filling->envelope);
    free(filling->payloads);
}

static enum q_err
filling_submit(struct filling *filling, struct slot *slot, uint64_t number)
{
    const struct fill *fill = filling->fill;
    for (uint32_t i = 0; i < fill->batches; i++) {
        uint8_t *envelope = slot->envelopes + (size_t)i * filling->envelope_size;
        memcpy(envelope, filling->envelope, filling->envelope_size);
        uint64_t turn = number * fill->batches + i;
        bool first = fill->apart > 0 && turn % fill->apart == 0;
        uint32_t subject = first ? 0 : (uint32_t)(turn % fill->subjects);
        slot->subjects[i] = fill_subject(fill->first + subject, slot->names[i]);
    }
    slot->publish = (struct qlog_publish){
        .request = { .kind = QLOG_PUBLISH, .done = filling_on_done, .context = slot },
        .envelopes = slot->envelopes,
        .envelopes_size = filling->envelope_size * fill->batches,
        .payloads = filling->payloads,
        .payloads_size = filling->payload_size * fill->batches,
        .subjects = slot->subjects,
        .batch_count = fill->batches,
        .mode = fill->durable ? QLOG_MODE_SYNC : QLOG_MODE_ASYNC,
        .ret_first_sequences = slot->firsts,
        /* Its batches are one batch many times, which is fine for a store and not for the check. */
        .checked = true,
        .message_count = fill->count * fill->batches,
    };
    slot->busy = true;
    filling->under_way++;
    return qlog_store_submit(filling->store, &slot->publish.request);
}

static void
filling_on_done(struct qlog_request *request, enum q_err err)
{
    struct slot *slot = request->context;
    slot->busy = false;
    slot->filling->under_way--;
    if (err != Q_OK) slot->filling->err = err;
}

static void
join_on_done(struct qlog_request *request, enum q_err err)
{
    *(enum q_err *)request->context = err == Q_OK ? Q_END : err;
}

static enum q_err
filling_join(struct filling *filling)
{
    for (uint32_t i = 0; i < filling->fill->subjects; i += GROUP_EVERY) {
        char name[FILL_NAME];
        enum q_err state = Q_OK;
        struct qlog_join join = {
            .request = { .kind = QLOG_JOIN, .done = join_on_done, .context = &state },
            .who = {
                .subject = fill_subject(i, name),
                .group = q_bytes_from_text("group"),
                .consumer = q_bytes_from_text("consumer"),
            },
        };
        Q_TRY(qlog_store_submit(filling->store, &join.request));
        while (state == Q_OK) {
            Q_TRY(qlog_store_turn(filling->store));
            Q_TRY(qlog_store_wait(filling->store, 10 * Q_NS_PER_MS));
        }
        if (state != Q_END) return state;
    }
    return Q_OK;
}

enum q_err
fill_and_kill(const char *directory, const struct fill *fill)
{
    (void)fflush(stdout);
    pid_t child = fork();
    if (child < 0) return Q_FAIL(Q_E_IO, .what = "fork");
    if (child == 0) {
        struct qlog_store *store;
        struct qlog_store_options options = { .log = { .create = true } };
        enum q_err err = qlog_store_open(directory, &options, &store);
        if (err == Q_OK) err = fill_store(store, fill);
        if (err == Q_OK) (void)kill(getpid(), SIGKILL);
        char text[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
        _exit(1);
    }
    int status;
    (void)waitpid(child, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return Q_OK;
    return Q_FAIL(Q_E_IO, .what = "the store could not be filled");
}

enum q_err
fill_open(const char *directory, struct qlog_store **ret_store, struct opened *ret_opened)
{
    const struct q_clock *clock = q_clock_system();
    uint64_t memory = fill_memory();
    uint64_t start_ns = q_clock_monotonic_ns(clock);
    Q_TRY(qlog_store_open(directory, NULL, ret_store));
    ret_opened->ready_s = (double)(q_clock_monotonic_ns(clock) - start_ns) / Q_NS_PER_S;
    uint64_t now = fill_memory();
    ret_opened->anonymous = now > memory ? now - memory : 0;
    qlog_store_counters(*ret_store, &ret_opened->counters);
    return Q_OK;
}

uint64_t
fill_memory(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    if (file == NULL) return 0;
    char line[128];
    uint64_t kib = 0;
    while (fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, "RssAnon:", 8) == 0) kib = strtoull(line + 8, NULL, 10);
    (void)fclose(file);
    return kib * 1024;
}

void
fill_remove(const char *directory)
{
    pid_t child = fork();
    if (child == 0) {
        (void)execlp("rm", "rm", "-rf", "--", directory, (char *)NULL);
        _exit(127);
    }
    if (child > 0) (void)waitpid(child, NULL, 0);
}
