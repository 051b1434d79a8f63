"""The query language: text → sqlglot's tree → allow-listed typed tree → parameterised SQL. Pure modules, no database.

A statement passes `syntax.parse.parse`, `binding.select.bind` and `sql.statement.compile_query` in this order. No text of the user's ever
reaches the SQL: collections and attributes become numbers, literals become bind parameters, operators and functions come from the table
in `syntax.operation`.
"""
