-- What the HTTPS door knows of the ciphertext of files that were staged: equal content has equal ciphertext.
CREATE TABLE door_copy (
    guid       uuid PRIMARY KEY,
    generation text COLLATE "C" NOT NULL,  -- digest of the rules of de-identification under which it was sealed
    etag       text COLLATE "C" NOT NULL,  -- salt and nonce prefix, in hexadecimal
    size       bigint NOT NULL,
    sha256     bytea NOT NULL,
    md5        bytea NOT NULL,
    adler32    bigint NOT NULL
);
