-- WILD: the score of free generation and the kinds of error, as macros that look at nothing but their arguments.
-- Regular expressions are RE2: no look-behind, no look-ahead; the alternatives of a group are tried in order. Words are consumed whole, so that
-- what follows can only be met at the start of a word.

-- The answer that a text begins with: leading white space dropped, up to the first end of line or the first full stop that ends a sentence.
-- A stop ends a sentence unless a letter, a digit or one of , ; : / - follows at once ("3.5", "Inc., a"), or it belongs to an abbreviation:
-- a capital alone ("J."), letters with stops ("U.S.", "p.m.", "Ph.D."), a title or a part of a name or firm ("St.", "Jr.", "Inc."), or a
-- word that a number follows ("No. 5"). Such a stop may end the sentence all the same ("vitamin C. It is"): it does where a word follows that
-- opens sentences and is no likely name. What stays ambiguous is kept together: "World War I. Germany lost" is one answer, and so is
-- "Apple Inc. Steve Jobs". After "Dr." even "He" is taken for a name.
CREATE OR REPLACE MACRO said(text) AS regexp_replace(
    regexp_extract(
        regexp_replace(
            regexp_replace(text, '^[\s\pZ]+', ''),
            '((?:^|[^\pL\pM\pN])(?:\p{Lu}\pM*|[ap]\.m|St|Mt|Inc|Ltd|Co|Corp|Bros|Jr|Sr|Esq|etc)\.)[\s\pZ]+'
            '(?:It|He|She|They|We|You|I|The|A|An|This|That|These|Those|There|Its|His|Her|Their|And|But|In|As|At|On|By|For|From|With|When|While|After'
            '|Before|Since|If|Also|However|What|Who|Where|Which|How)[\s\pZ,]',
            E'\\1\n'
        ),
        '^(?:'
        '(?:\p{Lu}\pM*|St|Ste|Mt|Ft|Mr|Mrs|Ms|Messrs|Mme|Mlle|Dr|Prof|Rev|Fr|Hon|Gen|Col|Maj|Capt|Cmdr|Lt|Sgt|Cpl|Adm|Gov|Sen|Rep|Pres'
        '|Inc|Ltd|Co|Corp|Bros|Jr|Sr|Esq|Univ|vs|etc|approx)\.'
        '|(?:Nos?|no|Vols?|vol|Op|Pop|pp|ca?|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)\.\p{Zs}*\pN'
        '|(?:\pL{1,2}\.)+\pL{1,3}\.'
        '|[\pL\pM\pN]+'
        '|\.[\pL\pN,;:/-]'
        '|[^.\n\r\x{2028}\x{2029}]'
        ')*'
    ),
    '[\s\pZ]+$', ''
);

-- Lower case, without punctuation and symbols of any script, single spaces, accents kept and composed (NFC).
CREATE OR REPLACE MACRO plain(text) AS
    trim(regexp_replace(nfc_normalize(regexp_replace(lower(text), '[\p{P}\p{S}\p{Cf}]+', '', 'g')), '[\s\pZ\p{Cc}]+', ' ', 'g'));

-- The same without the words a, an, the, as SQuAD's script does it: "3.5" becomes "35", "Jean-Luc" becomes "jeanluc".
CREATE OR REPLACE MACRO normalised(text) AS trim(regexp_replace(' ' || plain(text) || ' ', ' (?:(?:an?|the) )+', ' ', 'g'));

-- What two answers are compared by: the normalised text; where nothing is left of it ("The", "A") the text with its articles; where nothing
-- is left of that either ("+") the text itself.
CREATE OR REPLACE MACRO spelt(text) AS coalesce(nullif(normalised(text), ''), nullif(plain(text), ''), trim(text));

-- Whether a text begins with an answer that `said` itself would cut ("1. FC Köln", "Pop. 1280"), and the line or sentence ends there.
CREATE OR REPLACE MACRO opens_with(text, answer) AS CASE
    WHEN NOT contains(answer, '. ') OR normalised(said(answer)) = normalised(answer) OR NOT starts_with(ltrim(text, E' \t\r\n'), answer) THEN false
    WHEN ends_with(answer, '.') THEN regexp_matches(substr(ltrim(text, E' \t\r\n'), length(answer) + 1), '^(?:[\s\pZ]|$)')
    ELSE regexp_matches(substr(ltrim(text, E' \t\r\n'), length(answer) + 1), '^(?:\.(?:[^\pL\pN]|$)|[\n\r]|$)')
END;

-- 1 where the answer given is the answer wanted in one of its spellings, else 0; NULL where nothing was generated. What ends in "_of" takes what
-- others have found (`given` is what was said, `compared` its spelling): a macro is text, and grows with each that stands in it.
CREATE OR REPLACE MACRO right_of(text, compared, answer, accepted) AS CASE
    WHEN list_contains(list_prepend(spelt(answer), list_transform(accepted::VARCHAR[], lambda spelling: spelt(spelling))), compared) THEN 1
    WHEN text IS NOT NULL THEN opens_with(text, answer)::INTEGER
END;
CREATE OR REPLACE MACRO wild_right(text, answer, accepted) AS right_of(text, spelt(said(text)), answer, accepted);

-- Words in order, lower case, each between single spaces, without articles unless there is nothing else. Unlike in `normalised` a dash parts
-- words; numbers ("3.5", "1,000") and letters with stops ("U.S.") are one word each. A record separator stays, so that a list joined by it
-- goes through at once; then a spelling of articles alone ("The") is left empty.
CREATE OR REPLACE MACRO all_words(text) AS ' ' || ltrim(regexp_replace(
    regexp_replace(regexp_replace(nfc_normalize(lower(text)), '[''’ʼ`]+', '', 'g'), '(\pN|\b\pL)[.,]', '\1', 'g') || ' ',
    '[^\pL\pM\pN\x1e]+', ' ', 'g'
));
CREATE OR REPLACE MACRO words(text) AS coalesce(nullif(regexp_replace(all_words(text), ' (?:(?:an?|the) )+', ' ', 'g'), ' '), all_words(text));
-- Words that say something, unless there are none ("The Who").
CREATE OR REPLACE MACRO content(terms) AS coalesce(nullif(regexp_replace(
    terms,
    ' (?:(?:of|and|or|in|on|at|to|for|from|by|with|as|is|was|are|were|be|been|has|had|it|its|he|his|she|her|they|their|this|that|which|who) )+',
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

-- Whether words stand in others, together and in order.
CREATE OR REPLACE MACRO stands_in(some_words, others) AS some_words <> ' ' AND contains(others, some_words);

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
