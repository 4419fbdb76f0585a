/*
 * Points in time as people write them, and what is text.
 */
#include <criterion/criterion.h>

#include "json.h"
#include "when.h"

enum {
    NOW = 1000 * 1000
};

static uint64_t
when(const char *text)
{
    uint64_t ms = 0;
    cr_assert_eq(when_parse(text, NOW, &ms), Q_OK, "%s: %s", text, q_fault_last()->what);
    return ms;
}

Test(qlog_when, what_people_write)
{
    cr_expect_eq(when("now"), NOW);
    cr_expect_eq(when("-5s"), NOW - 5000);
    cr_expect_eq(when("-250ms"), NOW - 250);
    cr_expect_eq(when("-100d"), 0, "before 1970 is 1970");
    cr_expect_eq(when("1768104902113"), 1768104902113);
    cr_expect_eq(when("1970-01-01"), 0);
    cr_expect_eq(when("1970-01-02T00:00:00Z"), 86400000);
    cr_expect_eq(when("2026-01-11T04:15:02.113Z"), 1768104902113);
    cr_expect_eq(when("2026-01-11T05:45:02.113+01:30"), 1768104902113);
    cr_expect_eq(when("2026-01-10T23:15:02.113-05:00"), 1768104902113);
    cr_expect_eq(when("2024-02-29"), 1709164800000);
    cr_expect_eq(when("2000-02-29t12:00:00z"), 951825600000);
}

Test(qlog_when, what_is_no_time)
{
    static const char *const wrong[] = {
        "",
        "yesterday",
        "-",
        "-5parsecs",
        "1969-12-31",
        "2026-13-01",
        "2026-02-29",
        "2100-02-29",
        "2026-04-31",
        "2026-1-1",
        "2026-01-11T04:15:02",
        "2026-01-11T24:00:00Z",
        "2026-01-11T04:15:02+1:00",
        "2026-01-11T04:15:02Zz",
        "2026-01-11 04:15",
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        uint64_t ms;
        cr_expect_eq(when_parse(wrong[i], NOW, &ms), Q_INVALID, "'%s'", wrong[i]);
        cr_expect_neq(q_fault_last()->hint[0], '\0');
    }
}

Test(qlog_when, text_is_what_is_utf8)
{
    cr_expect(json_is_utf8(q_bytes_from_text("")));
    cr_expect(json_is_utf8(q_bytes_from_text("grüße 消息 😀\n")));
    cr_expect(json_is_utf8(q_bytes_from("a\0b", 3)));
    cr_expect(!json_is_utf8(q_bytes_from_text("gr\xfc\xdf")));
    cr_expect(!json_is_utf8(q_bytes_from_text("\xc3")));
    cr_expect(!json_is_utf8(q_bytes_from_text("\xed\xa0\x80")), "a surrogate");
}
