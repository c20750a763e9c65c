-- WILD: the score of free generation and the kinds of error, as macros that look at nothing but their arguments.
-- Regular expressions are RE2: no look-behind, no look-ahead; the alternatives of a group are tried in order. Words are consumed whole, so that
-- what follows can only be met at the start of a word.

-- Insides of classes, in ranges, for a class such as \pL takes long to compile: letters with their marks; small letters of Latin (to U+017F also
-- others), Greek and Cyrillic. And letters of scripts with spaces between words: Latin to Sinhala, Georgian to Runic, Hangul.
CREATE OR REPLACE MACRO letters() AS 'A-Za-z\x{c0}-\x{1fff}\x{2c00}-\x{2dff}\x{3041}-\x{d7ff}\x{f900}-\x{fdff}\x{fe70}-\x{fefe}\x{10000}-\x{3ffff}';
CREATE OR REPLACE MACRO small_letters() AS 'a-z\x{df}-\x{17f}\x{3ac}-\x{3ce}\x{430}-\x{45f}';
CREATE OR REPLACE MACRO spaced_letter() AS '[A-Za-z\x{c0}-\x{37d}\x{37f}-\x{588}\x{5d0}-\x{5f2}\x{620}-\x{6d3}\x{6d5}-\x{963}\x{966}-\x{dff}'
    '\x{10a0}-\x{1360}\x{1369}-\x{166d}\x{1681}-\x{16ff}\x{1e00}-\x{1fff}\x{ac00}-\x{d7a3}]';
-- Marks that end a sentence wherever they are, as the inside of a class: Unicode's Sentence_Terminal (Basic Multilingual Plane and Chakma) but
-- for . ! ? and the Burmese comma, and the ellipsis, the Greek question mark and the Tibetan shad.
CREATE OR REPLACE MACRO full_stops() AS
    '\x{2025}\x{2026}\x{37e}\x{f0d}\x{f0e}\x{589}\x{61d}-\x{61f}\x{6d4}\x{700}-\x{702}\x{7f9}\x{837}\x{839}\x{83d}\x{83e}\x{964}\x{965}\x{104b}'
    '\x{1362}\x{1367}\x{1368}\x{166e}\x{1735}\x{1736}\x{17d4}\x{17d5}\x{1803}\x{1809}\x{1944}\x{1945}\x{1aa8}-\x{1aab}\x{1b5a}\x{1b5b}\x{1b5e}'
    '\x{1b5f}\x{1b7d}\x{1b7e}\x{1c3b}\x{1c3c}\x{1c7e}\x{1c7f}\x{2024}\x{203c}\x{203d}\x{2047}-\x{2049}\x{2cf9}-\x{2cfb}\x{2e2e}\x{2e3c}\x{2e53}'
    '\x{2e54}\x{3002}\x{a4ff}\x{a60e}\x{a60f}\x{a6f3}\x{a6f7}\x{a876}\x{a877}\x{a8ce}\x{a8cf}\x{a92f}\x{a9c8}\x{a9c9}\x{aa5d}-\x{aa5f}\x{aaf0}'
    '\x{aaf1}\x{abeb}\x{fe12}\x{fe15}\x{fe16}\x{fe52}\x{fe56}\x{fe57}\x{ff01}\x{ff1f}\x{ff61}\x{11141}-\x{11143}';
-- All of what a sentence may end at, ends of lines included; and the record separator, which joins texts.
CREATE OR REPLACE MACRO marks() AS '.!?\x{ff0e}\n\r\x{b}\x{c}\x{1c}\x{1d}\x{85}\x{2028}\x{2029}' || full_stops();
CREATE OR REPLACE MACRO sentence_ends() AS '\x{1e}' || marks();

-- What stands within a sentence, one piece after the other. A mark of `full_stops` ends it in any case. A . ends it unless a letter of a script
-- with spaces, a digit or one of , ; : / - follows at once ("3.5", "Inc., a"), or it belongs to an abbreviation: a letter alone ("J."), letters
-- with stops ("U.S.", "p.m.", "Ph.D."), a title or a part of a name or firm ("St.", "Jr.", "Inc."), a word that a number follows ("No. 5"), or an
-- ordinal number that a small letter or a German month follows ("3. Oktober"). A ! or ? ends it unless a small letter, a digit or one of , ; : / -
-- follows at once ("P!nk", "Jeopardy!, a show").
CREATE OR REPLACE MACRO within_sentence() AS '(?:'
    '(?:' || spaced_letter() || '{1,2}\.)+' || spaced_letter() || '{1,3}\.'
    '|(?:[A-Za-z\x{c0}-\x{52f}\x{5d0}-\x{5ea}\x{620}-\x{64a}]\pM*|St|Ste|Mt|Ft|Mr|Mrs|Ms|Messrs|Mme|Mlle|Dr|Dra|Prof|Rev|Fr|Hr|Hon|Gen|Col|Maj|Capt'
    '|Cmdr|Lt|Sgt|Cpl|Adm|Gov|Sen|Rep|Pres|Inc|Ltd|Co|Corp|Bros|Jr|Sr|Sra|Sta|Sto|Esq|Univ|Hl|Sig|vs|etc|approx|Св|св|им|ул|проф|акад|ген|डॉ)\.'
    '|(?:Nos?|no|Nr|Vols?|vol|Op|Pop|pp|ca?|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)\.\p{Zs}*\pN+'
    '|[0-9]{1,2}\.\p{Zs}+(?:[' || small_letters() || ']|Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember)'
    '|[\pL\pM\pN]+'
    '|(?:[.\x{ff0e}]\pN|\.' || spaced_letter() || '|[!?][0-9' || small_letters() || '])[\pL\pM\pN]*|[.!?][,;:/-]'
    '|[^' || sentence_ends() || '])';

-- A text without leading white space, and with an end of line behind a stop of an abbreviation that ends the sentence all the same ("vitamin C.
-- It is"): it does where a word follows that opens sentences and is no likely name. What stays ambiguous is kept together: "World War I. Germany
-- lost" is one answer, and so is "Apple Inc. Steve Jobs". After "Dr." even "He" is taken for a name.
CREATE OR REPLACE MACRO parted(text) AS regexp_replace(
    regexp_replace(text, '^[\s\pZ]+', ''),
    '((?:^|[^0-9' || letters() || '])(?:[A-Za-z\x{c0}-\x{52f}]\pM*|[ap]\.m|St|Mt|Inc|Ltd|Co|Corp|Bros|Jr|Sr|Esq|etc)\.)[\s\pZ]+('
    '(?:It|He|She|They|We|You|I|The|A|An|This|That|These|Those|There|Its|His|Her|Their|And|But|In|As|At|On|By|For|From|With|When|While|After'
    '|Before|Since|If|Also|However|What|Who|Where|Which|How|Es|Er|Sie|Das|Der|Elle|Cette|Il|Ella|Este|Esta|Ele|Ela|Он|Она|Оно|Они|Это|Этот|Эта)'
    '[\s\pZ,])',
    E'\\1\n\\2', 'g'
);

-- The answer that a text begins with: up to the first end of a line or sentence. Marks in front of a first word belong to it ("...Baby").
CREATE OR REPLACE MACRO said(text) AS
    regexp_replace(regexp_extract(parted(text), '^(?:[.!?\x{2026}]+[\pL\pN])?' || within_sentence() || '*'), '[\s\pZ]+$', '');

-- The sentences and lines of a text, which it is made of.
CREATE OR REPLACE MACRO sentences(text) AS
    regexp_extract_all(parted(text), within_sentence() || '+[' || sentence_ends() || ']*|[' || sentence_ends() || ']+');

-- Characters of double width, and digits of other scripts, as ASCII has them.
CREATE OR REPLACE MACRO narrow(text) AS CASE
    WHEN regexp_matches(text, '[\x{ff01}-\x{ff5e}٠-٩٫٬۰-۹०-९০-৯๐-๙]') THEN translate(
        text,
        '！＂＃＄％＆＇（）＊＋，－．／０１２３４５６７８９：；＜＝＞？＠ＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱＲＳＴＵＶＷＸＹＺ［＼］＾＿｀ａｂｃｄｅｆｇｈｉｊｋｌｍｎｏｐｑｒｓｔｕｖｗｘｙｚ｛｜｝～'
        '٠١٢٣٤٥٦٧٨٩٫٬۰۱۲۳۴۵۶۷۸۹०१२३४५६७८९০১২৩৪৫৬৭৮৯๐๑๒๓๔๕๖๗๘๙',
        '!"#$%&''()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxyz{|}~'
        '0123456789.,0123456789012345678901234567890123456789'
    )
    ELSE text
END;

-- Numbers without the marks between groups of thousands (, ' _ and spaces that do not break): "1,000", "1'000", "1,00,000"; never "1.000", "0,500".
CREATE OR REPLACE MACRO ungrouped(text) AS regexp_replace(
    text,
    '([1-9][0-9]{0,2})' || repeat('(?:[,''_\x{a0}\x{2009}\x{202f}]([0-9]{2,3}))?', 3) || '[,''_\x{a0}\x{2009}\x{202f}]([0-9]{3})'
    '(\b|[' || letters() || '])|([0-9][0-9.,]*)',
    '\1\2\3\4\5\6\7', 'g'
);

-- Words without hyphens and stops within, beside a letter: "jean-luc", "covid-19", "u.s". Twice over, for every second sign of "a-b-c" is left.
CREATE OR REPLACE MACRO unhyphened(text) AS
    regexp_replace(text, '([' || letters() || '])[-.]+([0-9' || letters() || '])|([0-9])-+([' || letters() || '])', '\1\2\3\4', 'g');

-- Small letters without punctuation and symbols, but for signs that tell answers apart. Those are: what stands between digits ("1.5", "10:30",
-- "2-1"); in front of a number the point and the signs - + ± < > and of currencies; behind a letter or number # + & % ° and currencies ("C#", "5 %",
-- "AT&T"); a - at the end of a number or of up to three letters ("A-", "Rh-"); a single * behind a single letter ("A*"). All kinds of dashes are one.
-- A list joined by record separators goes through at once.
CREATE OR REPLACE MACRO signed(text) AS regexp_replace(
    regexp_replace(
        regexp_replace(
            regexp_replace(
                unhyphened(unhyphened(ungrouped(translate(lower(narrow(text)), '‐‑‒–—―−﹣’‘ʼʻ′', '--------''''''''''')))),
                '(^|[^0-9' || letters() || '])([a-z\x{df}-\x{52f}]{1,3})-', '\1\2－', 'g'
            ),
            '((?:^|\x1e)(?:[^*\x1e]*[\s\pZ])?[a-z])\*([^*\x1e]*(?:$|\x1e))', '\1＊\2', 'g'
        ),
        '[\s\pZ]*([%‰°\p{Sc}])[\s\pZ]*|([0-9])[ \x{a0}]+([-+*/:×÷=<>])[ \x{a0}]+([0-9])|([<>≤≥±])[ \x{a0}]+([0-9])', '\1\2\3\4\5\6', 'g'
    ),
    '([<>≤≥±]?[-+]?\p{Sc}?[-+]?\.?\pN+(?:[!-/:-@\[-`{-~\x{a1}-\x{bf}×÷\x{2010}-\x{2027}\x{2030}-\x{205e}\p{Sc}\x{2200}-\x{22ff}]+\pN+)*[-+%‰°\p{Sc}]*'
    '|[' || letters() || '][#+&\p{Sc}♯♭＊－]+|°[' || letters() || '])|[\p{P}\p{S}\p{Cf}]',
    '\1', 'g'
);

-- Lower case, without punctuation and symbols of any script but for signs that tell answers apart, single spaces, accents kept and composed (NFC),
-- and without articles in front of something else: "Vitamin A" and "A" keep theirs. Texts joined by record separators are each treated so.
CREATE OR REPLACE MACRO normalised(text) AS regexp_replace(
    replace(replace(trim(nfc_normalize(regexp_replace(  -- `nfc_normalize` ends at a character 0, so those go first
        replace(
            CASE
                WHEN regexp_matches(text, '[\pN\p{Pd}\p{Sc}\x{ff01}-\x{ff5e}−#+&%‰°♯♭*]') THEN signed(text)
                ELSE regexp_replace(lower(text), '[\p{P}\p{S}\p{Cf}ʼʻ]+', '', 'g')
            END,
            'ς', 'σ'
        ),
        '[\s\pZ\x00-\x1d\x1f\x7f-\x9f]+', ' ', 'g'
    ))), ' ' || chr(30), chr(30)), chr(30) || ' ', chr(30)),
    '(^|\x1e)(?:(?:an?|the) )+', '\1', 'g'
);

-- What two answers are compared by: the normalised text, or where nothing is left of it ("+") the text itself. And the same of a list at once.
CREATE OR REPLACE MACRO spelt(text) AS coalesce(nullif(normalised(replace(text, chr(30), ' ')), ''), trim(text));
CREATE OR REPLACE MACRO joined(texts) AS array_to_string(list_transform(texts, lambda text: replace(text, chr(30), ' ')), chr(30));
CREATE OR REPLACE MACRO all_spelt(texts) AS list_transform(
    list_zip(string_split(normalised(joined(texts)), chr(30)), texts), lambda pair: coalesce(nullif(pair[1], ''), trim(pair[2]))
);

-- An answer with its other spellings.
CREATE OR REPLACE MACRO spellings(answer, accepted) AS
    list_filter(list_prepend(answer, accepted::VARCHAR[]), lambda spelling: spelling IS NOT NULL);
-- Whether one of several answers joined has more than one sentence or line, so that `said` would cut it ("1. FC Köln", "Yahoo! Inc").
CREATE OR REPLACE MACRO is_parted(answers) AS regexp_matches(answers, '[' || marks() || '][^\x1e]*[\pL\pN]')
    AND len(sentences(answers)) > 1 + length(regexp_replace(answers, '[^\x1e]+', '', 'g'));
-- The first sentence of a text, the first two, and so on, up to as many as one of several answers joined may have.
CREATE OR REPLACE MACRO openings(text, answers) AS list_transform(
    [{'parts': sentences(text), 'most': 1 + length(regexp_replace(answers, '[^' || sentence_ends() || ']+', '', 'g'))}],
    lambda it: list_transform(range(1, least(len(it.parts), it.most) + 1), lambda count: array_to_string(it.parts[:count], ''))
)[1];

-- 1 where the answer given is the answer wanted in one of its spellings, else 0; NULL where nothing was generated. An answer of several sentences or
-- lines is right where the text begins with it and a sentence or line ends there. What ends in "_of" takes what others have found (`given` is what
-- was said, `compared` its spelling): a macro is text, and grows with each that stands in it.
CREATE OR REPLACE MACRO right_of(text, compared, answer, accepted) AS CASE
    WHEN text IS NOT NULL THEN list_has_any(
        all_spelt(spellings(answer, accepted)),
        CASE
            WHEN is_parted(joined(spellings(answer, accepted)))
                THEN list_prepend(compared, all_spelt(openings(text, joined(spellings(answer, accepted)))))
            ELSE [compared]
        END
    )::INTEGER
END;
CREATE OR REPLACE MACRO wild_right(text, answer, accepted) AS right_of(text, spelt(said(text)), answer, accepted);

-- Words in order, lower case, each between single spaces, without an article in front. Unlike in `normalised` a dash parts words; numbers ("3.5",
-- "1,000", "-5") and letters with stops ("U.S.") are one word each, and + # % belong to the word in front ("C#"): what counts of signs is
-- written with private characters. A record separator is a word, so that a list joined by it goes through at once.
CREATE OR REPLACE MACRO all_words(text) AS ' ' || ltrim(nfc_normalize(regexp_replace(
    regexp_replace(
        regexp_replace(
            regexp_replace(
                translate(
                    lower(replace(text, chr(30), ' ' || chr(30) || ' ')),
                    '‐‑‒–−+#%''’‘ʼʻ`', '-----' || chr(57345) || chr(57346) || chr(57347)
                ),
                '(\b\pL)[.,]|([0-9]),([0-9]{3})', '\1\2\3', 'g'
            ),
            '(\pN)[.](\pN)', '\1' || chr(57348) || '\2', 'g'
        ),
        '((?:^|[\s\pZ])[\p{Ps}\p{Pi}]*)-(\p{Sc}?\pN)', '\1' || chr(57349) || '\2', 'g'
    ) || ' ',
    '[^\pL\pM\pN\p{Co}\x1e]+', ' ', 'g'
)));
CREATE OR REPLACE MACRO words(text) AS regexp_replace(all_words(text), '(^|\x1e) (?:an?|the) ([^ \x1e])', '\1 \2', 'g');
-- Words that say something, unless there are none ("The Who").
CREATE OR REPLACE MACRO content(terms) AS coalesce(nullif(regexp_replace(
    terms,
    ' (?:(?:an?|the|of|and|or|in|on|at|to|for|from|by|with|as|is|was|are|were|be|been|has|had'
    '|it|its|he|his|she|her|they|their|this|that|which|who) )+',
    ' ', 'g'
), ' '), terms);

-- Whether the last half of some words, and three for each at least, are so few words over and over.
CREATE OR REPLACE MACRO circles(list_of, few) AS
    len(list_of) >= 3 * few AND list_unique(list_of[-greatest(3 * few, (len(list_of) + 1) // 2) :]) <= few;
CREATE OR REPLACE MACRO goes_round(list_of) AS CASE
    WHEN list_unique(list_of) > len(list_of) - 2 THEN false
    ELSE circles(list_of, 1) OR circles(list_of, 2) OR circles(list_of, 3) OR circles(list_of, 5) OR circles(list_of, 8)
END;

-- Whether the last half of some letters, and `least` of them at least, is the same one to four over and over.
CREATE OR REPLACE MACRO recurs(letters, period, least) AS
    length(letters) >= least
    AND right(letters, (greatest(least, (length(letters) + 1) // 2) - period)::BIGINT)
      = left(right(letters, greatest(least, (length(letters) + 1) // 2)::BIGINT), (greatest(least, (length(letters) + 1) // 2) - period)::BIGINT);
CREATE OR REPLACE MACRO stutters(letters, least) AS
    recurs(letters, 1, least) OR recurs(letters, 2, least) OR recurs(letters, 3, least + 1) OR recurs(letters, 4, least + 4);

-- Whether words are fewer than others, and none is foreign that says something.
CREATE OR REPLACE MACRO is_fewer(terms, telling, other_terms, other_telling) AS
    list_has_all(string_split(trim(other_telling), ' '), string_split(trim(telling), ' '))
    AND (length(telling) < length(other_telling) OR (telling = other_telling AND length(terms) < length(other_terms)));
-- Whether words are a proper part of others: fewer, or cut off within a word ("Par" of "Paris").
CREATE OR REPLACE MACRO is_part(terms, telling, other_terms, other_telling) AS
    is_fewer(terms, telling, other_terms, other_telling)
    OR (length(terms) BETWEEN 4 AND length(other_terms) - 1 AND starts_with(other_terms, rtrim(terms)));

-- Whether words stand in others, together and in order; of scripts without spaces also within a word.
CREATE OR REPLACE MACRO stands_in(some_words, others) AS some_words <> ' '
    AND contains(others, CASE
        WHEN regexp_full_match(some_words, '(?: [\x{e00}-\x{109f}\x{1780}-\x{17ff}\x{2e80}-\x{9fff}\x{f900}-\x{faff}\x{20000}-\x{3ffff}]+)+ ')
            THEN trim(some_words)
        ELSE some_words
    END);

-- 1 where the answer said has the wanted one in it, whatever stands around it ("It is Paris, France"), else 0. Never a score of its own.
CREATE OR REPLACE MACRO holds_of(given, is_right, answer, accepted) AS CASE
    WHEN is_right = 1 THEN 1
    WHEN given IS NOT NULL THEN list_transform(
        [{
            'given': words(given),
            'wanted': string_split(words(concat_ws(chr(30), answer, array_to_string(accepted::VARCHAR[], chr(30)))), chr(30))
        }],
        lambda it: list_bool_or(list_transform(it.wanted, lambda wanted: stands_in(wanted, it.given)))
    )[1]::INTEGER
END;
CREATE OR REPLACE MACRO wild_holds(text, answer, accepted) AS holds_of(said(text), wild_right(text, answer, accepted), answer, accepted);

-- The class of a wrong answer from the words of: the answer said, the answer wanted, its other spellings, the old answer. The rules stand in
-- the order tested.
CREATE OR REPLACE MACRO class_of(given, wanted, others, old) AS list_transform([{
    'given': given, 'wanted': wanted, 'others': others, 'old': old,
    'letters': regexp_replace(given, '[^\pL\pN]+', '', 'g'), 'least': if(regexp_matches(given, '\pN'), 16, 8),
    'telling': content(given), 'wanted_telling': content(wanted), 'others_telling': content(others), 'old_telling': content(old)
}], lambda it: CASE
    -- Meaningless: no word at all; or the same few words over and over, the last perhaps cut off; or the same few letters, eight at least
    -- (sixteen characters with digits: numbers end in noughts). Letters strung together once are not noticed.
    WHEN it.letters = '' OR goes_round(string_split(trim(it.given), ' ')) OR goes_round(string_split(trim(it.given), ' ')[:-2])
        OR stutters(it.letters, it.least) THEN 'meaningless'
    -- Unchanged: the old answer stands in it, and no word of the target that the old one lacks: the edit had no effect.
    WHEN stands_in(it.old, it.given) AND list_has_all(string_split(it.old, ' '), list_intersect(
        string_split(it.telling, ' '), string_split(it.wanted_telling || it.others_telling, ' ')
    )) THEN 'unchanged'
    -- Missing token: a proper part of the target or whole words of another spelling, nothing foreign.
    WHEN is_part(it.given, it.telling, it.wanted, it.wanted_telling) OR list_bool_or(list_transform(
        list_zip(string_split(it.others, chr(30)), string_split(it.others_telling, chr(30))),
        lambda other: is_fewer(it.given, it.telling, other[1], other[2])
    )) THEN 'missing_token'
    -- Unchanged as well: a proper part of the old answer, nothing foreign.
    WHEN is_part(it.given, it.telling, it.old, it.old_telling) THEN 'unchanged'
    -- Partial replacement: words of the target or of the old answer among others. Also the whole target with words around it, which
    -- `wild_holds` tells apart, or with its words in another order.
    WHEN list_has_any(string_split(trim(it.telling), ' '), string_split(it.wanted_telling || it.others_telling || it.old_telling, ' '))
        THEN 'partial_replacement'
    -- Knowledge-irrelevant: nothing of either.
    ELSE 'knowledge_irrelevant'
END)[1];

-- What is wrong with an answer; NULL where it is right or nothing was generated. The four classes of Zhang et al. 2024 (arXiv 2401.01286,
-- Sec. 4.5) and "unchanged", which they lack.
CREATE OR REPLACE MACRO error_of(given, is_right, answer, accepted, old) AS CASE
    WHEN given IS NULL OR is_right = 1 THEN NULL
    ELSE list_transform(
        [{
            'given': words(given), 'wanted': words(answer), 'old': words(coalesce(old, '')),
            'others': words(coalesce(array_to_string(accepted::VARCHAR[], chr(30)), ''))
        }],
        lambda raw: class_of(raw.given, raw.wanted, raw.others, raw.old)
    )[1]
END;
CREATE OR REPLACE MACRO error_class(text, answer, accepted, old) AS
    error_of(said(text), wild_right(text, answer, accepted), answer, accepted, old);

-- Whether an answer said begins with the words of one of some names.
CREATE OR REPLACE MACRO begins_with_one_of(given, names) AS
    list_bool_or(list_transform(names, lambda name: starts_with(words(given), words(name))));
