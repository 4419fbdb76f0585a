/*
 * codec: what CPU does a message cost on its way into a batch, and out of one?
 *
 *     codec [--size B] [--count N] [--rounds R] [--tags N] [--compress] [-o json]
 *
 * In: add to a builder, close, write into memory. Out: check the envelope, hash the payload, walk over
 * all messages. Rounds of both take turns with a memcpy of the same bytes, twice, which is what has to
 * be copied at least; medians are told. The estimate: two copies of 128 bytes, an entry of 32, a hash
 * over 160: 30 ns in; a hash and two loads for each: 20 ns out.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/opts.h>
#include <qbatch/batch.h>
#include <qbatch/build.h>

#include "usage.h"

enum {
    BATCHES = 400, /* of a round */
    ROUNDS_MAX = 99,
    SIZE_MAX_ = 64 * 1024,
    ESTIMATE_IN_NS = 30,
    ESTIMATE_OUT_NS = 20,
    GOAL_NS = 60
};

static struct {
    uint64_t size;
    uint64_t count;
    uint64_t rounds;
    uint64_t tags;
    bool compress;
} ask = { .size = 128, .count = 512, .rounds = 15 };

struct codec {
    struct qbatch_builder *builder;
    uint8_t *bodies; /* of a batch, one behind the other */
    uint8_t *envelope;
    uint8_t *payload;
    uint8_t *scratch;
    uint32_t envelope_size;
    uint32_t payload_size;
    uint32_t count; /* messages of a batch */
    uint64_t sum;   /* so that nothing is optimised away */
};

static enum q_err codec_init(struct codec *codec);
static enum q_err encode(struct codec *codec);
static enum q_err decode(struct codec *codec);
static enum q_err copy(struct codec *codec);
static double measure(struct codec *codec, enum q_err (*run)(struct codec *), enum q_err *ret_err);
static double median(double *values);
static int failed(void);

int
main(int argc, char **argv)
{
    const char *format = "text";
    const struct q_opt options[] = {
        { "size", 0, Q_OPT_SIZE, &ask.size, "B", "body of a message", 1, SIZE_MAX_ },
        { "count", 0, Q_OPT_NUMBER, &ask.count, "N", "messages of a batch at most", 1, 65535 },
        { "rounds", 0, Q_OPT_NUMBER, &ask.rounds, "R", "medians of so many", 1, ROUNDS_MAX },
        { "tags", 0, Q_OPT_NUMBER, &ask.tags, "N", "tags of each message", 0, 3 },
        { "compress", 0, Q_OPT_FLAG, &ask.compress, NULL, "LZ4 where it pays", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &format, "FORMAT", "text or json", 0, 0 },
    };
    struct q_opts_result result;
    enum q_err err =
        q_opts_parse(options, sizeof(options) / sizeof(options[0]), argc, argv, &result);
    if (err != Q_OK || result.help) {
        (void)fprintf(stderr, "%s\n", result.error);
        q_opts_print_help(stderr, options, sizeof(options) / sizeof(options[0]));
        return result.help ? 0 : 2;
    }
    bool json = strcmp(format, "json") == 0;
    if (!json)
        (void)printf(
            "What does a message of %" PRIu64 " bytes cost in batches?\n"
            "estimate   %d ns of CPU in, %d ns out (128 bytes, 512 in a batch)\n",
            ask.size, ESTIMATE_IN_NS, ESTIMATE_OUT_NS);

    struct codec codec = { 0 };
    if (codec_init(&codec) != Q_OK) return failed();
    static double in[ROUNDS_MAX];
    static double out[ROUNDS_MAX];
    static double copies[ROUNDS_MAX];
    for (uint64_t i = 0; i < ask.rounds; i++) {
        in[i] = measure(&codec, encode, &err);
        if (err == Q_OK) out[i] = measure(&codec, decode, &err);
        if (err == Q_OK) copies[i] = measure(&codec, copy, &err);
        if (err != Q_OK) return failed();
    }
    double in_ns = median(in);
    double out_ns = median(out);
    double copy_ns = median(copies);
    double envelope = (double)codec.envelope_size / codec.count;
    double payload = (double)codec.payload_size / codec.count;
    if (json)
        (void)printf(
            "{\"bench\":\"codec\",\"size\":%" PRIu64 ",\"count\":%u,\"tags\":%" PRIu64
            ",\"compress\":%s,\"encode_ns\":%.1f,\"decode_ns\":%.1f,\"copy_twice_ns\":%.1f,"
            "\"envelope_bytes\":%.1f,\"payload_bytes\":%.1f,\"goal_ns\":%d}\n",
            ask.size, codec.count, ask.tags, ask.compress ? "true" : "false", in_ns, out_ns,
            copy_ns, envelope, payload, GOAL_NS);
    else
        (void)printf(
            "in         %.1f ns of CPU a message\n"
            "out        %.1f ns\n"
            "memcpy     %.1f ns for the body, twice\n"
            "batch      %u messages; %.1f bytes of envelope and %.1f of payload each\n",
            in_ns, out_ns, copy_ns, codec.count, envelope, payload);
    qbatch_builder_free(codec.builder);
    free(codec.bodies);
    free(codec.envelope);
    free(codec.payload);
    free(codec.scratch);
    return codec.sum == 0 ? 1 : 0;
}

static enum q_err
codec_init(struct codec *codec)
{
    const struct qbatch_builder_options options = {
        .messages_max = (uint32_t)ask.count,
        .bytes_max = QBATCH_CONTENT_BYTES_MAX,
        .compress = ask.compress,
    };
    Q_TRY(qbatch_builder_new(&options, &codec->builder));
    codec->bodies = malloc(ask.count * ask.size);
    if (codec->bodies == NULL) return Q_FAIL(Q_E_NOMEM);
    /* Text of few words, so that there is something to compress. */
    for (uint64_t i = 0; i < ask.count * ask.size; i++)
        codec->bodies[i] = (uint8_t) "order 4711 paid by card "[(i + i / 100) % 24];
    /* Once, to learn the sizes. */
    Q_TRY(encode(codec));
    return Q_OK;
}

static enum q_err
encode(struct codec *codec)
{
    static const char *const names[] = { "paid", "card", "eu" };
    struct q_bytes tags[3];
    for (unsigned i = 0; i < 3; i++)
        tags[i] = q_bytes_from_text(names[i]);
    qbatch_builder_reset(codec->builder);
    for (uint32_t i = 0; i < ask.count; i++) {
        const struct qbatch_message message = {
            .body = q_bytes_from(codec->bodies + i * ask.size, ask.size),
            .tags = tags,
            .tag_count = (uint32_t)ask.tags,
            .time_ms = 1700000000000 + i,
            .counter = i,
        };
        enum q_err err = qbatch_builder_add(codec->builder, &message);
        if (err == Q_AGAIN) break;
        Q_TRY(err);
    }
    codec->count = qbatch_builder_count(codec->builder);
    uint32_t envelope_size;
    uint32_t payload_size;
    Q_TRY(qbatch_builder_close(codec->builder, &envelope_size, &payload_size));
    if (codec->envelope == NULL) {
        codec->envelope = malloc(envelope_size);
        codec->payload = malloc((size_t)payload_size + 1);
        codec->scratch = malloc((size_t)ask.count * ask.size * 2 + 1);
        if (codec->envelope == NULL || codec->payload == NULL || codec->scratch == NULL)
            return Q_FAIL(Q_E_NOMEM);
        codec->envelope_size = envelope_size;
        codec->payload_size = payload_size;
    }
    const struct qbatch_request_place place = { .request_count = 1 };
    qbatch_builder_write(codec->builder, &place, codec->envelope, codec->payload);
    codec->sum += codec->envelope[envelope_size - 1];
    return Q_OK;
}

static enum q_err
decode(struct codec *codec)
{
    struct qbatch batch;
    Q_TRY(qbatch_open(q_bytes_from(codec->envelope, codec->envelope_size), &batch));
    Q_TRY(qbatch_check_payload(&batch, codec->payload));
    struct q_bytes content;
    Q_TRY(qbatch_content(&batch, codec->payload, codec->scratch, &content));
    struct qbatch_walk walk;
    qbatch_walk_start(&walk, &batch, content);
    struct qbatch_view view;
    enum q_err err;
    while ((err = qbatch_walk_next(&walk, false, &view)) == Q_OK)
        codec->sum += view.body.size + view.body.data[0];
    return err == Q_END ? Q_OK : err;
}

static enum q_err
copy(struct codec *codec)
{
    for (uint32_t i = 0; i < codec->count; i++) {
        memcpy(codec->scratch, codec->bodies + i * ask.size, ask.size);
        memcpy(codec->scratch + ask.size, codec->scratch, ask.size);
        codec->sum += codec->scratch[ask.size];
        __asm__ volatile("" ::: "memory");
    }
    return Q_OK;
}

/* CPU of a message, in ns. */
static double
measure(struct codec *codec, enum q_err (*run)(struct codec *), enum q_err *ret_err)
{
    *ret_err = Q_OK;
    struct usage start = usage_now();
    for (unsigned i = 0; i < BATCHES && *ret_err == Q_OK; i++)
        *ret_err = run(codec);
    struct usage used = usage_since(&start);
    return (double)used.process_ns / ((double)BATCHES * codec->count);
}

static int
compare(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return left < right ? -1 : left > right;
}

static double
median(double *values)
{
    qsort(values, ask.rounds, sizeof(values[0]), compare);
    return values[ask.rounds / 2];
}

static int
failed(void)
{
    char text[Q_FAULT_LINE_MAX];
    (void)fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
    return 1;
}
