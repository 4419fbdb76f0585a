/*
 * Ids of messages as text.
 */
#include <criterion/criterion.h>

#include <string.h>

#include <qbatch/id.h>

#include "random.h"

/* The example of the header is what is printed. */
Test(batch_id, format)
{
    char out[QBATCH_ID_TEXT_SIZE];
    struct qbatch_id id = {
        .time_ms = UINT64_C(1768104902113),
        .producer = UINT64_C(0x9f3c01ab22cd),
        .counter = 1,
    };
    cr_assert_str_eq(qbatch_id_format(&id, out), "20260111T041502.113Z-9f3c01ab22cd-1");
}

/* Every id comes back from its text, and texts of later times are greater. */
Test(batch_id, round_trip)
{
    struct random_source random = random_from_seed(4);
    for (int i = 0; i < 5000; i++) {
        struct qbatch_id id = {
            .time_ms = random_u64(&random) >> (16 + random_below(&random, 48)),
            .producer = random_u64(&random) >> 16,
            .counter = (uint32_t)(random_u64(&random) >> (32 + random_below(&random, 32))),
        };
        char text[QBATCH_ID_TEXT_SIZE];
        struct qbatch_id parsed;
        cr_assert_eq(qbatch_id_parse(qbatch_id_format(&id, text), &parsed), Q_OK, "%s", text);
        cr_assert_eq(parsed.time_ms, id.time_ms);
        cr_assert_eq(parsed.producer, id.producer);
        cr_assert_eq(parsed.counter, id.counter);
    }
}

/* The longest id has room. */
Test(batch_id, longest)
{
    char text[QBATCH_ID_TEXT_SIZE];
    struct qbatch_id id = {
        .time_ms = (UINT64_C(1) << 48) - 1,
        .producer = (UINT64_C(1) << 48) - 1,
        .counter = UINT32_MAX,
    };
    cr_assert_str_eq(qbatch_id_format(&id, text), "108890802T053150.655Z-ffffffffffff-4294967295");
    cr_assert_eq(qbatch_id_parse(text, &id), Q_OK);
}

/* Whatever is not printed like that is no id: an id has one text only. */
Test(batch_id, refused)
{
    static const char *const texts[] = {
        "",
        "T",
        "20260111T041502.113Z-9f3c01ab22cd-",
        "20260111T041502.113Z-9f3c01ab22cd",
        "20260111T041502.113Z-9f3c01ab22c-1",
        "20260111T041502.113Z-9F3C01AB22CD-1",
        "20260111T041502.113Z-9f3c01ab22cd-01",
        "20260111T041502.113Z-9f3c01ab22cd--1",
        "20260111T041502.113Z-9f3c01ab22cd-1 ",
        "20260111T041502.113Z-9f3c01ab22cd-4294967296",
        "20260111T041502.113Z-9f3c01ab22cd-99999999999999999999",
        "20260230T041502.113Z-9f3c01ab22cd-1",
        "20261301T041502.113Z-9f3c01ab22cd-1",
        "20260111T241502.113Z-9f3c01ab22cd-1",
        "20260111T041560.113Z-9f3c01ab22cd-1",
        "20260111T041502,113Z-9f3c01ab22cd-1",
        "20260111t041502.113Z-9f3c01ab22cd-1",
        "020260111T041502.113Z-9f3c01ab22cd-1",
        "19691231T235959.999Z-9f3c01ab22cd-1",
        "108890802T053150.656Z-9f3c01ab22cd-1",
        "999990111T041502.113Z-9f3c01ab22cd-1",
        "2026011T041502.113Z-9f3c01ab22cd-1",
        "message",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct qbatch_id id = { .counter = 7 };
        cr_assert_eq(qbatch_id_parse(texts[i], &id), Q_INVALID, "%s", texts[i]);
        cr_assert_eq(id.counter, 7);
    }
}

/* No single wrong character makes a text that is read beyond its end or that crashes. */
Test(batch_id, damaged)
{
    static const char good[] = "20260111T041502.113Z-9f3c01ab22cd-1";
    for (size_t i = 0; i < sizeof(good) - 1; i++) {
        for (int character = 0; character < 256; character++) {
            char *text = strdup(good);
            struct qbatch_id id;
            text[i] = (char)character;
            enum q_err err = qbatch_id_parse(text, &id);
            cr_assert(err == Q_OK || err == Q_INVALID);
            free(text);
        }
    }
}
