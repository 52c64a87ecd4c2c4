# Flattens one JSON document: a line "path<TAB>value" for every string, number and literal; path members are
# joined by "/". Newlines and tabs inside a string become spaces; \u escapes beyond ASCII become "?".
# Malformed input ends the program with status 1 and whatever was read so far.
{ text = text $0 "\n" }
END { value(""); skip(); exit (text == "" ? 0 : 1) }

function skip() { sub(/^[ \t\r\n]+/, "", text) }
function fail() { exit 1 }

function string(    out, chunk, code) {
    text = substr(text, 2)
    while (1) {
        if (match(text, /^[^"\\]+/)) {
            chunk = substr(text, 1, RLENGTH); text = substr(text, RLENGTH + 1)
            gsub(/[\t\n]/, " ", chunk); out = out chunk
        }
        if (text == "") fail()
        if (substr(text, 1, 1) == "\"") { text = substr(text, 2); return out }
        chunk = substr(text, 2, 1)
        if (chunk == "u") {
            code = index(hex, tolower(substr(text, 5, 1))) * 16 + index(hex, tolower(substr(text, 6, 1))) - 17
            out = out ((substr(text, 3, 2) == "00" && code >= 32 && code < 127) ? sprintf("%c", code) : "?")
            text = substr(text, 7)
        } else {
            out = out (index("ntrbf", chunk) ? " " : chunk)
            text = substr(text, 3)
        }
    }
}

function value(path,    key, position, first) {
    skip()
    first = substr(text, 1, 1)
    if (first == "{" || first == "[") {
        text = substr(text, 2); skip()
        position = 0
        while (substr(text, 1, 1) != "}" && substr(text, 1, 1) != "]") {
            if (text == "") fail()
            if (first == "{") {
                if (substr(text, 1, 1) != "\"") fail()
                key = string(); skip()
                if (substr(text, 1, 1) != ":") fail()
                text = substr(text, 2)
            } else key = position++
            value(path == "" ? key : path "/" key); skip()
            if (substr(text, 1, 1) == ",") { text = substr(text, 2); skip() }
        }
        text = substr(text, 2)
    } else if (first == "\"") print path "\t" string()
    else if (match(text, /^[-+.0-9a-zA-Z]+/)) { print path "\t" substr(text, 1, RLENGTH); text = substr(text, RLENGTH + 1) }
    else fail()
}
BEGIN { hex = "0123456789abcdef" }
